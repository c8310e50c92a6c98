//! Samples of what is dropped, or would be but for shadow, for people to look at. They come through a
//! ring buffer that the agent reads; the counters have all of them.
//!
//! How many there are is bounded per CPU, as in a token bucket, so that a flood costs one comparison a
//! packet. Each event says how many there were since the last that had none.

use aya_ebpf::{
    Global,
    bindings::{__sk_buff, xdp_md},
    macros::map,
    maps::{PerCpuArray, RingBuf},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use enforcer_common::layout::{EVENT_BURST_NS, EVENT_RING_BYTES, Event, EventGate, event_flag};

use crate::{
    atomic::Cell,
    frame::Frame,
    interface,
    maps::CONTROL,
    parse::{
        ethernet,
        reading::{self, Reading, enforcer_read_tc},
    },
    scratch,
};

/// Nanoseconds from one event to the next on one CPU, in the long run. Zero: every packet has one.
/// `u64::MAX`: none has. Set before loading.
#[unsafe(no_mangle)]
static EVENT_SPACING_NS: Global<u64> = Global::new(u64::MAX);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// One element.
#[map]
static EVENT_GATES: PerCpuArray<EventGate> = PerCpuArray::with_max_entries(1, 0);

/// What has happened.
struct Occurrence {
    now_ns: u64,
    /// Where it is counted.
    place: u32,
    interface: u32,
    bytes: u32,
}

/// Tells the agent of a packet that arrived, when [`due`] says so. The packet is read once more: so the
/// program need not keep what it knows of each until it is known that one is to be told of. `reading` is that, and not
/// asked for here: the stack is short.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_tell_ingress(
    ctx: *mut xdp_md,
    now_ns: u64,
    place: u64,
    due: u64,
    reading: u64,
) -> u64 {
    let context = XdpContext::new(ctx);
    let frame = Frame::of_xdp(&context);
    let occurrence = Occurrence {
        now_ns,
        place: place as u32,
        interface: context.ingress_ifindex() as u32,
        bytes: frame.len() as u32,
    };
    occurrence.log(&frame);
    occurrence.tell(Reading::from(reading), due)
}

/// The same of one that leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_tell_egress(ctx: *mut __sk_buff, now_ns: u64, place: u64, due: u64) -> u64 {
    let context = TcContext::new(ctx);
    let occurrence = Occurrence {
        now_ns,
        place: place as u32,
        // SAFETY: the context is valid while the program runs.
        interface: unsafe { (*ctx).ifindex },
        bytes: context.len(),
    };
    occurrence.log(&Frame::of_tc(&context));
    let reading = enforcer_read_tc(ctx, occurrence.bare());
    occurrence.tell(Reading::from(reading), due)
}

impl Occurrence {
    /// Whether its packets have no Ethernet header, as a global function takes it.
    #[inline(always)]
    fn bare(&self) -> u64 {
        interface::find(self.interface).map_or(0, interface::Interface::bare)
    }

    #[inline(always)]
    fn tell(&self, reading: Reading, due: u64) -> u64 {
        let packet = if reading.kind() == reading::IP {
            scratch::get()
        } else {
            None
        };
        let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
            return enforcer_event_lost();
        };
        let event = Event {
            time_ns: self.now_ns,
            skipped: due - 1,
            place: self.place,
            interface: self.interface,
            bytes: self.bytes,
            ..Event::NOTHING
        };
        entry.write(match packet {
            Some(packet) => Event {
                source: packet.source,
                destination: packet.destination,
                source_port: packet.source_port,
                destination_port: packet.destination_port,
                protocol: packet.protocol,
                detail: packet.detail,
                flags: event_flag::READ
                    | (u8::from(packet.fragment) * event_flag::FRAGMENT)
                    | (u8::from(packet.later_fragment) * event_flag::LATER_FRAGMENT),
                ..event
            },
            None => event,
        });
        entry.submit(0);
        1
    }
}

impl Occurrence {
    /// Says to people who look for a fault of the programs what the frame's bytes are, of which an event says
    /// nothing. Where the level is below (`AYA_LOG_LEVEL`, set before loading), the verifier takes it out.
    #[inline(always)]
    fn log(&self, frame: &Frame) {
        if !level_enabled(Level::Debug) {
            return;
        }
        let zero = CONTROL.get(0).map_or(0, |control| control.zero);
        let (kind, offset) = ethernet::parse(frame, zero).unwrap_or((0, 0));
        enforcer_log(
            u64::from(self.place),
            u64::from(self.interface),
            u64::from(self.bytes),
            u64::from(kind) << 16 | offset as u64,
        );
    }
}

/// One line of the log. A global function: it takes a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_log(place: u64, interface: u64, bytes: u64, payload: u64) -> u64 {
    debug!(
        (),
        "interface {}: {} bytes, counted at {}, type {:x} at {}",
        interface,
        bytes,
        place,
        payload >> 16,
        payload & 0xffff
    );
    0
}

/// Zero if no event is due, else one more than how many there would have been since the last. In place: most
/// packets of a flood have none.
#[inline(always)]
pub fn due(now_ns: u64) -> u64 {
    let spacing = EVENT_SPACING_NS.load();
    if spacing == u64::MAX {
        return 0;
    }
    let Some([next, skipped, _, total]) = gate() else {
        return 0;
    };
    if spacing != 0 && next.read() > now_ns.saturating_add(EVENT_BURST_NS) {
        skipped.add_local(1);
        total.add_local(1);
        return 0;
    }
    enforcer_event_due(now_ns)
}

/// Takes the event that is due: one more than how many there would have been since the last.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_event_due(now_ns: u64) -> u64 {
    let Some([next, skipped, ..]) = gate() else {
        return 0;
    };
    let at = next.read();
    let from = if at > now_ns { at } else { now_ns };
    next.put_local(from.saturating_add(EVENT_SPACING_NS.load()));
    let since = skipped.read();
    skipped.put_local(0);
    since.saturating_add(1)
}

/// Counts an event for which the ring had no room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_event_lost() -> u64 {
    if let Some([_, _, lost, _]) = gate() {
        lost.add_local(1);
    }
    0
}

/// This CPU's cells: when the next is due, skipped since the last, lost, skipped in all.
#[inline(always)]
fn gate() -> Option<[Cell; 4]> {
    let words: *mut u64 = EVENT_GATES.get_ptr_mut(0)?.cast();
    // SAFETY: a gate is four words in a per-CPU map's value.
    Some([0, 1, 2, 3].map(|word| unsafe { Cell::new(words.add(word)) }))
}
