use super::*;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000_000 * SECOND;
const UDP: u8 = 17;

fn hash(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A memory of one line.
struct Model([u64; CELLS]);

impl Model {
    /// As the kernel does it: the phase before, if the flow was there.
    fn see(&mut self, hash: u64, sighting: Option<Sighting>, now_ns: u64) -> Option<Phase> {
        let sighting = sighting?;
        for cell in &mut self.0 {
            let entry = Entry::read(*cell);
            if entry.is_of(hash)
                && let Some(phase) = entry.phase(now_ns)
            {
                *cell = sighting.next(entry, phase, now_ns).word();
                return Some(phase);
            }
        }
        let first = sighting.first(hash, now_ns)?;
        let victim = self
            .0
            .iter_mut()
            .max_by_key(|cell| Entry::read(**cell).worth_giving_up(now_ns))
            .filter(|cell| Entry::read(**cell).worth_giving_up(now_ns) > 0);
        if let Some(victim) = victim {
            *victim = first.word();
        }
        None
    }

    fn answers(&mut self, hash: u64, detail: u8, now_ns: u64) -> bool {
        self.see(hash, Sighting::answering(TCP, detail), now_ns)
            .is_some_and(Phase::is_answerable)
    }

    fn open(&mut self, hash: u64, now_ns: u64) {
        self.see(hash, Sighting::arriving(TCP, SYN), now_ns);
        assert!(self.answers(hash, SYN | ACK, now_ns));
        self.see(hash, Sighting::arriving(TCP, ACK), now_ns);
    }
}

#[test]
fn a_connection_is_answered_from_its_first_packet_on() {
    let mut memory = Model([0; CELLS]);
    assert!(!memory.answers(hash(1), SYN | ACK, NOW));
    memory.open(hash(1), NOW);
    assert!(memory.answers(hash(1), ACK, NOW + 3_600 * SECOND));
    assert!(
        !memory.answers(hash(1), ACK, NOW + 7 * 3_600 * SECOND),
        "6 h after it spoke"
    );
    assert!(!memory.answers(hash(2), ACK, NOW));
}

#[test]
fn one_that_is_half_open_is_forgotten_soon() {
    let mut memory = Model([0; CELLS]);
    memory.see(hash(1), Sighting::arriving(TCP, SYN), NOW);
    for second in 0..100 {
        assert!(memory.answers(hash(1), SYN | ACK, NOW + second * SECOND));
    }
    assert!(
        !memory.answers(hash(1), SYN | ACK, NOW + 130 * SECOND),
        "answers keep nothing alive"
    );
}

#[test]
fn a_flood_of_forged_packets_forgets_no_open_connection() {
    for flags in [SYN, ACK] {
        let mut memory = Model([0; CELLS]);
        for real in 0..7 {
            memory.open(hash(real), NOW);
        }
        for forged in 0..100_000 {
            let now = NOW + forged * 1_000_000;
            memory.see(hash(1_000 + forged), Sighting::arriving(TCP, flags), now);
            assert!(memory.answers(hash(1_000 + forged), SYN | ACK, now));
        }
        for real in 0..7 {
            assert!(memory.answers(hash(real), ACK, NOW + 100 * SECOND), "{real}");
        }
    }
}

#[test]
fn a_line_full_of_open_connections_takes_no_other() {
    let mut memory = Model([0; CELLS]);
    for real in 0..8 {
        memory.open(hash(real), NOW);
    }
    memory.see(hash(9), Sighting::arriving(TCP, SYN), NOW);
    assert!(!memory.answers(hash(9), SYN | ACK, NOW));
    // One that ends makes room.
    memory.see(hash(3), Sighting::arriving(TCP, FIN | ACK), NOW);
    memory.see(hash(9), Sighting::arriving(TCP, SYN), NOW + 2 * SECOND);
    assert!(memory.answers(hash(9), SYN | ACK, NOW + 2 * SECOND));
    assert!(
        (0..8)
            .filter(|real| *real != 3)
            .all(|real| memory.answers(hash(real), ACK, NOW))
    );
}

#[test]
fn what_this_end_began_is_no_answer() {
    let mut memory = Model([0; CELLS]);
    memory.see(hash(1), Sighting::allowed(TCP, SYN), NOW);
    for flags in [SYN | ACK, ACK, FIN | ACK] {
        memory.see(hash(1), Sighting::arriving(TCP, flags), NOW);
        assert!(!memory.answers(hash(1), ACK, NOW), "{flags:#x}");
    }
    let speaks = |memory: &mut Model, at| {
        memory.see(hash(2), Sighting::allowed(UDP, 0), at);
        memory.see(hash(2), Sighting::arriving(UDP, 0), at + SECOND);
        let answer = Sighting::answering(UDP, 0);
        memory.see(hash(2), answer, at + SECOND)
    };
    assert_eq!(speaks(&mut memory, NOW), Some(Phase::Ours));
    assert_eq!(speaks(&mut memory, NOW + 100 * SECOND), Some(Phase::Ours));
}

#[test]
fn nobody_answers_by_opening() {
    assert_eq!(Sighting::answering(TCP, SYN), None);
    assert_eq!(Sighting::answering(ICMP, 8), None);
    assert_eq!(Sighting::answering(ICMP, 128), None);
    assert_eq!(Sighting::arriving(ICMP, 0), None);
}

#[test]
fn a_forged_segment_ends_no_connection() {
    let mut memory = Model([0; CELLS]);
    memory.open(hash(1), NOW);
    for flags in [RST, SYN, FIN | ACK] {
        memory.see(hash(1), Sighting::arriving(TCP, flags), NOW);
        assert!(memory.answers(hash(1), ACK, NOW), "{flags:#x}");
    }
}

#[test]
fn a_new_connection_with_the_ends_of_an_old_one_begins_anew() {
    let mut memory = Model([0; CELLS]);
    memory.open(hash(1), NOW);
    assert!(memory.answers(hash(1), FIN | ACK, NOW));
    memory.open(hash(1), NOW + 10 * SECOND);
    assert!(memory.answers(hash(1), ACK, NOW + 300 * SECOND));
}

#[test]
fn the_clock_comes_round() {
    for at in [(TICKS << TICK) - SECOND, (TICKS << TICK) + SECOND, TICKS << TICK] {
        let mut memory = Model([0; CELLS]);
        memory.open(hash(1), at);
        assert!(memory.answers(hash(1), ACK, at + 3_600 * SECOND));
        assert!(!memory.answers(hash(1), ACK, at + 30_000 * SECOND));
        // Another CPU is a moment behind.
        assert!(memory.answers(hash(1), ACK, at - SECOND / 2));
    }
}

#[test]
fn an_empty_cell_is_nothing() {
    for now in [0, NOW] {
        assert_eq!(Entry::read(0).phase(now), None);
        assert_eq!(Entry::read(0).worth_giving_up(now), u64::MAX);
    }
}
