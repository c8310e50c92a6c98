//! Verdicts and the reasons for them: the same numbers in the kernel's counters, in metrics and in
//! `explain`.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[must_use]
pub enum Verdict {
    /// It goes on.
    Pass = 0,
    /// It ends here.
    Drop = 1,
    /// It goes on, and would have ended here if its policy were not in `shadow`.
    Shadow = 2,
    /// It ends here and is answered in its own place.
    Answer = 3,
    /// It ends here, and its sender is told so: a TCP reset, or an ICMP error in its place.
    Reset = 4,
}

impl Verdict {
    /// How many there are.
    pub const COUNT: u32 = 5;
    /// All of them, by number.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Pass, Self::Drop, Self::Shadow, Self::Answer, Self::Reset];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Shadow => "shadow",
            Self::Answer => "answer",
            Self::Reset => "reset",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $drops:literal;)*) => {
        /// Why a packet passes or not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Reason {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in metrics and in `explain`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it ends a packet (where the policy is enforced).
            #[inline(always)]
            #[must_use]
            pub const fn drops(self) -> bool {
                match self { $(Self::$variant => $drops,)* }
            }
        }
    };
}

reasons! {
    /// No policy has anything to say.
    NoPolicy = 0, "no-policy", false;
    /// Neither IPv4 nor IPv6.
    NotIp = 1, "not-ip", false;
    /// ARP or IPv6 neighbour discovery.
    Lifeline = 2, "lifeline", false;
    /// The source is on the management list.
    Management = 3, "management", false;
    /// The source is on an allow list.
    Allowed = 4, "allowed", false;
    /// A verified connection within its identity's budget.
    Verified = 5, "verified", false;
    /// Within every limit of its policy.
    WithinLimits = 6, "within-limits", false;
    /// Leaves, and no list is against it.
    EgressAllowed = 7, "egress-allowed", false;
    /// A header is cut off.
    Truncated = 8, "truncated", true;
    /// A header contradicts itself: version, header length, total length.
    Malformed = 9, "malformed", true;
    /// A source that cannot be: multicast, broadcast, or IPv4-mapped on the wire (RFC 4291, RFC 6890).
    Martian = 10, "martian", true;
    /// More extension headers than are looked through: IPv6's, or authentication headers behind IPv4.
    ExtensionHeaders = 11, "extension-headers", true;
    /// On a policy's deny list.
    Denied = 12, "denied", true;
    /// Denied by the operator, for a time.
    DeniedByOperator = 13, "denied-by-operator", true;
    /// Denied for failed authentication, for a time.
    DeniedForAuthentication = 14, "denied-for-authentication", true;
    /// A verified connection over its identity's budget.
    OverBudget = 15, "over-budget", true;
    /// Over the first limit of its policy.
    Limit0 = 16, "limit", true;
    /// Over the second.
    Limit1 = 17, "limit", true;
    /// Over the third.
    Limit2 = 18, "limit", true;
    /// Over the fourth.
    Limit3 = 19, "limit", true;
    /// The destination is on an egress deny list.
    EgressDenied = 20, "egress-denied", true;
    /// A SYN that was answered with a cookie, before the stack saw it.
    SynCookieSent = 21, "syn-cookie-sent", true;
    /// The cookie of a SYN came back: its sender is where it says.
    SynCookieValid = 22, "syn-cookie-valid", false;
    /// An ACK to a listener that belongs to no connection and brings no valid cookie.
    SynCookieInvalid = 23, "syn-cookie-invalid", true;
    /// Nothing has been heard of the agent for too long: its limits have lapsed.
    AgentGone = 24, "agent-gone", false;
    /// No egress rule allows the destination, and the default is to deny.
    EgressDefault = 25, "egress-default", true;
    /// Answers somebody who spoke first, and was let in.
    EgressReply = 26, "egress-reply", false;
    /// Leaves over the first egress limit of its policy.
    EgressLimit0 = 27, "egress-limit", true;
    /// Over the second.
    EgressLimit1 = 28, "egress-limit", true;
    /// Goes to a pod whose egress is judged on its way back: here nothing is.
    ToPod = 29, "to-pod", false;
    /// Over a limit, and within the share in reserve of a source that was verified recently.
    RecentlyVerified = 30, "recently-verified", false;
    /// Of a connection that an operator has revoked.
    Revoked = 31, "revoked", true;
    /// More VLAN tags than are looked through.
    VlanTags = 32, "vlan-tags", true;
    /// Carries IP that the stack unwraps at another device (MPLS, PPPoE, MACsec), and no policy is against it.
    Opaque = 33, "opaque", false;
    /// The same, where a policy drops it.
    OpaqueDenied = 34, "opaque", true;
}

/// Each has a bit of its own.
const _: () = assert!(Reason::COUNT <= 64);

impl Reason {
    /// How many there are.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The reason's bit in a [`Bank`](crate::layout::Bank)'s `resets`.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << (self as u32 & 63)
    }

    /// What becomes of a packet for this reason, under a policy that only counts or one that does not. A
    /// drop may yet be told to the sender: [`Verdict::Reset`].
    #[inline(always)]
    pub const fn verdict(self, shadow: bool) -> Verdict {
        match (self.drops(), shadow) {
            (false, _) => Verdict::Pass,
            (true, true) => Verdict::Shadow,
            (true, false) if self as u32 == Self::SynCookieSent as u32 => Verdict::Answer,
            (true, false) => Verdict::Drop,
        }
    }

    /// Whether the sender of what it ends may be told: [`Verdict::Reset`]. It is somebody's decision about
    /// that sender, not something wrong with the packet.
    #[must_use]
    pub const fn may_be_told(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::DeniedByOperator
                | Self::OverBudget
                | Self::Limit0
                | Self::Limit1
                | Self::Limit2
                | Self::Limit3
                | Self::Revoked
        )
    }

    /// The reason of the limit at `index` of its policy.
    #[inline(always)]
    #[must_use]
    pub const fn limit(index: u32) -> Self {
        match index {
            0 => Self::Limit0,
            1 => Self::Limit1,
            2 => Self::Limit2,
            _ => Self::Limit3,
        }
    }

    /// The reason of the egress limit at `index` of its policy.
    #[inline(always)]
    #[must_use]
    pub const fn egress_limit(index: u32) -> Self {
        match index {
            0 => Self::EgressLimit0,
            _ => Self::EgressLimit1,
        }
    }

    /// Which limit of the policy it names, if it names one: 0 and its place among those on what arrives, or 1
    /// and its place among those on what leaves.
    #[must_use]
    pub const fn limit_place(self) -> Option<(usize, usize)> {
        match (self, self.limit_index()) {
            (_, Some(index)) => Some((0, index)),
            (Self::EgressLimit0, _) => Some((1, 0)),
            (Self::EgressLimit1, _) => Some((1, 1)),
            _ => None,
        }
    }

    /// Which limit of the policy it names, if it names one.
    #[must_use]
    pub const fn limit_index(self) -> Option<usize> {
        match self {
            Self::Limit0 => Some(0),
            Self::Limit1 => Some(1),
            Self::Limit2 => Some(2),
            Self::Limit3 => Some(3),
            _ => None,
        }
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Direction {
    /// Into the node.
    Ingress = 0,
    /// Out of it.
    Egress = 1,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
        }
        for (position, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, position);
        }
    }

    #[test]
    fn only_an_answer_is_answered_and_nothing_ends_in_shadow() {
        for &reason in Reason::ALL {
            let ends = reason.verdict(false);
            assert_eq!(ends != Verdict::Pass, reason.drops());
            assert_eq!(ends == Verdict::Answer, reason == Reason::SynCookieSent);
            let shadow = if reason.drops() {
                Verdict::Shadow
            } else {
                Verdict::Pass
            };
            assert_eq!(reason.verdict(true), shadow);
        }
    }

    #[test]
    fn only_drops_are_told() {
        for reason in Reason::ALL.iter().filter(|reason| reason.may_be_told()) {
            assert_eq!(reason.verdict(false), Verdict::Drop);
        }
    }

    #[test]
    fn limits_are_named_by_index() {
        for index in 0..4 {
            assert_eq!(Reason::limit(index).limit_index(), Some(index as usize));
            assert_eq!(Reason::limit(index).limit_place(), Some((0, index as usize)));
        }
        assert_eq!(Reason::Denied.limit_index(), None);
        for index in 0..2 {
            let reason = Reason::egress_limit(index);
            assert_eq!(reason.limit_place(), Some((1, index as usize)));
        }
    }
}
