//! What is in force in the kernel, for whoever asks: never changed, replaced in whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_common::layout::Bank;

use super::Attached;
use enforcer_model::{Name, PolicySet};

/// What the kernel runs.
#[derive(Clone, Default)]
pub struct View {
    /// Counts up: of two views the one with the higher is the later.
    pub version: u64,
    /// The policies.
    pub set: Arc<PolicySet>,
    /// Each packet policy.
    pub policies: BTreeMap<Name, Running>,
    /// Limits that the controller has changed, by policy and name.
    pub adapted: BTreeSet<(Name, Name)>,
    /// Where the programs are.
    pub attached: Vec<Attached>,
    /// Interfaces where the programs should be and are not, and why.
    pub failures: BTreeMap<String, String>,
}

/// A packet policy in the kernel.
#[derive(Clone)]
pub struct Running {
    /// By which the counters know it.
    pub number: u32,
    /// What is run now. `None`: the policy is about no interface yet.
    pub bank: Option<Arc<Bank>>,
}

impl View {
    /// The number that the kernel knows a policy by.
    #[must_use]
    pub fn number(&self, policy: &Name) -> Option<u32> {
        self.policies.get(policy).map(|running| running.number)
    }

    /// What the kernel runs for a policy now.
    #[must_use]
    pub fn bank(&self, policy: &Name) -> Option<&Bank> {
        self.policies.get(policy)?.bank.as_deref()
    }
}
