//! How well the sketch tells sources apart: a million of them, of which a thousand send far too much.

use enforcer_common::{
    hash::{self, Key},
    layout::{Limit, family, traffic},
    limiter::{Algorithm, Params},
    sketch::{CELLS, Place, ROWS, mapped, masks, words},
};

const SOURCES: u32 = 1_000_000;
/// Every thousandth source is heavy.
const EACH_HEAVY: u32 = 1_000;
/// Cells of the agent's default of 4 MiB.
const SKETCH: usize = 1 << 19;
const KEY: Key = Key {
    k0: 0x0123_4567_89ab_cdef,
    k1: 0xfedc_ba98_7654_3210,
};
const SECOND: u64 = 1_000_000_000;
const STEP: u64 = SECOND / 100;
const SECONDS: u64 = 3;
/// Packets a second, and at once.
const RATE: u64 = 100;
const BURST: u64 = 10;
/// Packets of a heavy source in each step: ten times its rate.
const HEAVY_PACKETS: u64 = 10;

type Cells = [usize; ROWS];

struct Outcome {
    /// Of the conforming sources, the share that ever had a packet refused.
    hurt: f64,
    /// What the heavy ones got of what they may, on average.
    heavy: f64,
    /// The same of the one that got most.
    heaviest: f64,
}

#[test]
fn four_cells_of_a_line_hold_the_heavy_and_spare_the_others() {
    let limit = limit();
    let outcome = simulate(&limit.params, |source| {
        let (high, low) = words(&mapped(source.to_be_bytes()));
        let place = Place::of(KEY, (SKETCH / CELLS - 1) as u64, &limit, high, low);
        [0, 1, 2, 3].map(|row| place.line as usize * CELLS + place.cell(row))
    });
    println!("four of a line's eight: {}", outcome.text());
    outcome.assert_good();
}

#[test]
fn other_layouts_compare_as_the_decision_says() {
    let params = limit().params;
    let pairs = simulate(&params, |source| {
        let hash = hash::of_one(KEY, u64::from(source));
        let line = hash as usize & (SKETCH / CELLS - 1);
        [0, 1, 2, 3].map(|row| line * CELLS + row * 2 + (hash >> (60 + row)) as usize % 2)
    });
    println!("a line of pairs: {}", pairs.text());
    let rows = simulate(&params, |source| {
        let row_cells = SKETCH / ROWS;
        [0, 1, 2, 3].map(|row| {
            let hash = hash::of_two(KEY, row as u64, u64::from(source));
            row * row_cells + (hash as usize & (row_cells - 1))
        })
    });
    println!("separate rows: {}", rows.text());
    rows.assert_good();
}

impl Outcome {
    fn text(&self) -> String {
        let (hurt, heavy, heaviest) = (self.hurt * 100.0, self.heavy * 100.0, self.heaviest * 100.0);
        format!(
            "{hurt:.4} % of the conforming hurt; the heavy get {heavy:.2} % of theirs, at most {heaviest:.2} %"
        )
    }

    fn assert_good(&self) {
        assert!(self.hurt < 0.001, "{}", self.text());
        // Those that share all cells with another heavy one get less; nobody gets more.
        assert!((0.98..=1.0).contains(&self.heavy), "{}", self.text());
        assert!(self.heaviest <= 1.0, "{}", self.text());
    }
}

/// Conforming sources send once a second, each at its own time.
fn simulate(params: &Params, place: impl Fn(u32) -> Cells) -> Outcome {
    let mut sketch = vec![0_u64; SKETCH];
    let mut hurt = vec![false; SOURCES as usize];
    let mut admitted = vec![0_u64; (SOURCES / EACH_HEAVY) as usize];
    let heavy: Vec<Cells> = (0..SOURCES).step_by(EACH_HEAVY as usize).map(&place).collect();
    let steps = (SECONDS * SECOND / STEP) as u32;
    for step in 0..steps {
        let now = SECOND + u64::from(step) * STEP;
        for (cells, admitted) in heavy.iter().zip(&mut admitted) {
            for _ in 0..HEAVY_PACKETS {
                *admitted += u64::from(charge(&mut sketch, *cells, params, now));
            }
        }
        for source in (step % 100..SOURCES)
            .step_by(100)
            .filter(|source| source % EACH_HEAVY != 0)
        {
            if !charge(&mut sketch, place(source), params, now) {
                hurt[source as usize] = true;
            }
        }
    }
    let may = (BURST + RATE * (SECONDS * SECOND - STEP) / SECOND) as f64;
    let conforming = f64::from(SOURCES - SOURCES / EACH_HEAVY);
    Outcome {
        hurt: hurt.iter().filter(|hurt| **hurt).count() as f64 / conforming,
        heavy: admitted.iter().sum::<u64>() as f64 / admitted.len() as f64 / may,
        heaviest: admitted.iter().copied().max().unwrap_or(0) as f64 / may,
    }
}

/// As the kernel program charges.
fn charge(sketch: &mut [u64], cells: Cells, params: &Params, now: u64) -> bool {
    let states = cells.map(|cell| params.settled(sketch[cell], now));
    let [a, b, c, d] = states;
    let used = params.less_used(params.less_used(a, b), params.less_used(c, d));
    let Some(next) = params.admit(used, now, 1) else {
        return false;
    };
    for (cell, state) in cells.into_iter().zip(states) {
        sketch[cell] = params.more_used(state, next);
    }
    true
}

fn limit() -> Limit {
    let (mask_v6_high, mask_v6_low, mask_v4_low) = masks(32, 64);
    Limit {
        params: Params::new(Algorithm::TokenBucket, RATE, SECOND, BURST).expect("possible parameters"),
        key: 0,
        count: 0,
        traffic: traffic::ALL,
        families: family::BOTH,
        index: 0,
        id: 1,
        shared: 0,
        mask_v6_high,
        mask_v6_low,
        mask_v4_low,
    }
}
