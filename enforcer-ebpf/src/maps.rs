//! The maps. `docs/architecture.md` says who writes each and how long its entries live.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray},
};
use enforcer_common::{
    flow_memory::{self, Line as FlowLine},
    layout::{
        Access, AccessKey, Address, CELLS_PER_IDENTITY, COUNTERS as COUNTER_ENTRIES, Control, Counter,
        DEFAULT_FLOWS, DenialReason, DeniedPrefix, EgressKey, EgressLimits, EgressRule, FLOW_MEMORY_LINES,
        Flow, FlowKey, Interface, MAX_DENIALS, MAX_EGRESS_RULES, MAX_IDENTITIES, MAX_INTERFACES, MAX_LOCAL,
        MAX_POLICIES, MAX_PREFIXES, MAX_RECENT, MAX_REVOKED, MAX_SERVICES, MAX_SHARED, NOTE_CHUNK,
        NOTE_CHUNKS, POLICY_ENTRIES, PROVEN_CELLS, Policy, RECENT_WORDS, RESERVE_CELLS, Recent,
        SEATS as SEAT_ENTRIES, Seat, Service, ServiceKey, TRIED_COUNTERS, UDP_LINES,
    },
    presence::WORDS as PRESENCE_WORDS,
    sketch::Line,
};

/// One element: what all packets need.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// By interface index. Replacing a value switches an interface to another generation.
#[map]
pub static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(MAX_INTERFACES, BPF_F_NO_PREALLOC);

/// By the last bits of an interface's index: what most packets need of [`INTERFACES`].
#[map]
pub static SEATS: Array<Seat> = Array::with_max_entries(SEAT_ENTRIES, 0);

/// Which policies a protocol and port has.
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> =
    HashMap::with_max_entries(MAX_SERVICES, BPF_F_NO_PREALLOC);

/// `slot * MAX_POLICIES + policy`.
#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(POLICY_ENTRIES, 0);

/// All access lists, of both families.
#[map]
pub static ACCESS: LpmTrie<AccessKey, Access> = LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);

/// A bit for each number of `enforcer_common::presence`.
#[map]
pub static PRESENCE: Array<u64> = Array::with_max_entries(PRESENCE_WORDS, 0);

/// Connections that the gateway has verified. Only the agent inserts, so nobody is evicted.
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(DEFAULT_FLOWS, 0);

/// Connections that an operator has revoked, and until when on the kernel's monotonic clock.
#[map]
pub static REVOKED: HashMap<FlowKey, u64> = HashMap::with_max_entries(MAX_REVOKED, BPF_F_NO_PREALLOC);

/// Limiter states of verified identities: one of each identity for the first limit, then one of each for the
/// next.
#[map]
pub static BUDGETS: Array<u64> = Array::with_max_entries(CELLS_PER_IDENTITY * MAX_IDENTITIES, 0);

/// Whose each of the budgets is: a keyed hash of the identity. Zero: nobody's yet. No program reads it;
/// the agent finds its identities' budgets again after a restart.
#[map]
pub static HOLDERS: Array<u64> = Array::with_max_entries(MAX_IDENTITIES, 0);

/// Sources that were verified recently. Only the agent inserts.
#[map]
pub static RECENT: HashMap<Address, Recent> = HashMap::with_max_entries(MAX_RECENT, BPF_F_NO_PREALLOC);

/// A bit for each of those sources: see `layout::recent_bit`.
#[map]
pub static RECENT_BITS: Array<u64> = Array::with_max_entries(RECENT_WORDS, 0);

/// Limiter states of those sources' shares in reserve: those that policies which enforce spend, then those of policies
/// in shadow.
#[map]
pub static RESERVES: Array<u64> = Array::with_max_entries(RESERVE_CELLS, 0);

/// Limiter states of services and interfaces.
#[map]
pub static SHARED: Array<u64> = Array::with_max_entries(MAX_SHARED, 0);

/// Limiter states of sources. The agent sets the number of lines when it loads the programs. Nobody maps
/// it: an array that could be mapped begins at a page, and so a line is one line of the cache. Others
/// begin sixteen bytes behind one.
#[map]
pub static SKETCH: Array<Line> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// By direction, policy, reason and verdict: see `layout::counter`.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_ENTRIES, 0);

/// What policies in shadow would have done, by direction, policy and reason: see `layout::tried_counter`.
#[map]
pub static TRIED: PerCpuArray<Counter> = PerCpuArray::with_max_entries(TRIED_COUNTERS, 0);

/// One element: the time that packets are told when [`crate::clock`] is told to inject it, else when ticks began.
#[map]
pub static CLOCK: Array<u64> = Array::with_max_entries(1, 0);

/// Why prefixes are denied, for `explain`. No program reads it; it is kept with the denials.
#[map]
pub static REASONS: HashMap<DeniedPrefix, DenialReason> =
    HashMap::with_max_entries(MAX_DENIALS, BPF_F_NO_PREALLOC);

/// The agent's notes: which numbers stand for which names in the other maps. No program reads it.
#[map]
pub static NOTES: Array<[u8; NOTE_CHUNK]> = Array::with_max_entries(2 * NOTE_CHUNKS, 0);

/// SYNs that came under each policy whose SYNs are counted.
#[map]
pub static SYNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_POLICIES, 0);

/// The node's own addresses. SYNs to others are not this node's to answer, even if a listener for all
/// addresses would take them.
#[map]
pub static LOCAL: HashMap<Address, u32> = HashMap::with_max_entries(MAX_LOCAL, BPF_F_NO_PREALLOC);

/// Flows of UDP that limits on connections have admitted: see `enforcer_common::flow_memory`.
#[map]
pub static UDP_FLOWS: Array<FlowLine> = Array::with_max_entries(UDP_LINES, BPF_F_MMAPABLE);

/// The same of limits in shadow, which so forget nothing that others go by.
#[map]
pub static TRIED_UDP_FLOWS: Array<FlowLine> = Array::with_max_entries(UDP_LINES, BPF_F_MMAPABLE);

/// Connections whose cookie has just come back, by a keyed hash: see `syn::proven`.
#[map]
pub static PROVEN: Array<u64> = Array::with_max_entries(PROVEN_CELLS, 0);

/// What becomes of what leaves, by destination (its set, from [`ACCESS`]), protocol and port.
#[map]
pub static EGRESS_RULES: HashMap<EgressKey, EgressRule> =
    HashMap::with_max_entries(MAX_EGRESS_RULES, BPF_F_NO_PREALLOC);

/// Limits on what leaves, by `slot * MAX_POLICIES + policy`.
#[map]
pub static EGRESS_LIMITS: Array<EgressLimits> = Array::with_max_entries(POLICY_ENTRIES, 0);

/// Who spoke first: see `enforcer_common::flow_memory`. Nobody maps it, as for [`SKETCH`].
#[map]
pub static FLOW_MEMORY: Array<flow_memory::Line> = Array::with_max_entries(FLOW_MEMORY_LINES, BPF_F_MMAPABLE);
