//! The layouts may cross into kernel maps: each is `repr(C)`, integers only, and has no padding.

use aya::Pod;

use crate::{flow_memory, layout, sketch};

macro_rules! pod {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)` integers without implicit padding, as the size assertions beside the
            // type show: any bytes are a value of it.
            unsafe impl Pod for $type {}
        )*
    };
}

pod!(
    layout::Access,
    layout::AccessKey,
    layout::Control,
    layout::Counter,
    layout::DenialReason,
    layout::DeniedPrefix,
    layout::EgressKey,
    layout::EgressLimits,
    layout::EgressRule,
    layout::Event,
    layout::EventGate,
    layout::Flow,
    layout::FlowKey,
    layout::Interface,
    layout::Policy,
    layout::Recent,
    layout::Seat,
    layout::Service,
    layout::ServiceKey,
    flow_memory::Line,
    sketch::Line,
);
