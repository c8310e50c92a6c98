//! Who keeps which number, and who never gets another's.

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn set(text: &str) -> PolicySet {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policies.yaml");
    std::fs::write(&file, text).unwrap();
    enforcer_policy::load(&[file]).unwrap().set
}

fn one(policy: &str, algorithm: &str, rate: &str) -> PolicySet {
    set(&format!(
        "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {policy}}}\nspec:\n  interfaces: [eth0]\n  \
         limits: [{{name: x, algorithm: {algorithm}, rate: {rate}}}]\n"
    ))
}

#[test]
fn names_keep_their_numbers() {
    let mut numbers = Numbers::default();
    let a = numbers.policy(&name("a")).unwrap();
    let b = numbers.policy(&name("b")).unwrap();
    assert_ne!(a, b);
    numbers.retain(&one("b", "token-bucket", "1/s"), &BTreeSet::new());
    assert_eq!(numbers.policy(&name("b")).unwrap(), b);
    assert_eq!(numbers.policy(&name("c")).unwrap(), a);
}

#[test]
fn a_record_says_all() {
    let mut numbers = Numbers::default();
    numbers.policy(&name("a")).unwrap();
    for algorithm in ["token-bucket", "fixed-window"] {
        let set = one("a", algorithm, "10/m");
        numbers.limit(&name("a"), &set.packet_policies[0].limits[0], 0);
    }
    numbers.position("eth0").unwrap();
    numbers.shared(1, 16).unwrap();
    numbers.column(2).unwrap();
    let text = serde_json::to_string(&Record::from(&numbers)).unwrap();
    let record: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(Numbers::try_from(record).unwrap(), numbers);
}

#[test]
fn a_limit_is_another_one_when_its_states_mean_something_else() {
    let mut numbers = Numbers::default();
    let mut number = |algorithm: &str, rate: &str| {
        let set = one("a", algorithm, rate);
        numbers.limit(&name("a"), &set.packet_policies[0].limits[0], 0)
    };
    let bucket = number("token-bucket", "10/s");
    assert_eq!(
        number("token-bucket", "20/m"),
        bucket,
        "a bucket's state is a time"
    );
    let window = number("fixed-window", "10/s");
    assert_ne!(window, bucket);
    assert_eq!(number("fixed-window", "20/s"), window);
    assert_ne!(number("fixed-window", "20/m"), window);
    assert_ne!(number("sliding-window", "20/s"), window);
}

#[test]
fn limit_numbers_are_never_given_twice_and_do_not_pile_up() {
    let mut numbers = Numbers::default();
    let set = one("a", "token-bucket", "1/s");
    let limit = &set.packet_policies[0].limits[0];
    let first = numbers.limit(&name("a"), limit, 0);
    numbers.retain(&PolicySet::default(), &BTreeSet::new());
    assert!(numbers.limits.is_empty());
    assert_ne!(numbers.limit(&name("a"), limit, 0), first);
}

#[test]
fn each_level_has_a_number_of_its_own() {
    let mut numbers = Numbers::default();
    let set = set(
        "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {name: a}\nspec:\n  interfaces: [eth0]\n  \
         limits: [{name: x, rate: 1/s, prefix: [{ipv4: 32}, {ipv4: 24}]}]\n",
    );
    let limit = &set.packet_policies[0].limits[0];
    let [narrow, wide] = [0, 1].map(|level| numbers.limit(&name("a"), limit, level));
    assert_ne!(narrow, wide);
    numbers.retain(&set, &BTreeSet::new());
    assert_eq!(numbers.limit(&name("a"), limit, 1), wide);
}

#[test]
fn limits_per_identity_have_different_limiters_until_there_is_none() {
    let mut numbers = Numbers::default();
    let columns: BTreeSet<u32> = (1..TRIED_BUDGET)
        .map(|limit| numbers.column(limit).unwrap())
        .collect();
    assert_eq!(columns, (1..TRIED_BUDGET).collect());
    assert_eq!(numbers.column(3).unwrap(), 3);
    assert_eq!(numbers.new_columns(&Numbers::default()).count(), columns.len());
    assert_eq!(numbers.new_columns(&numbers.clone()).count(), 0);
    assert!(matches!(numbers.column(99), Err(KernelError::TooMany { .. })));
}

#[test]
fn too_many_policies_are_an_error() {
    let mut numbers = Numbers::default();
    for number in 0..MAX_POLICIES {
        numbers.policy(&name(&format!("p{number}"))).unwrap();
    }
    assert!(matches!(
        numbers.policy(&name("more")),
        Err(KernelError::TooMany { .. })
    ));
}

#[test]
fn shared_limiters_do_not_overlap_and_are_used_again() {
    let mut numbers = Numbers::default();
    let a = numbers.shared(1, 16).unwrap();
    let b = numbers.shared(2, 1).unwrap();
    let c = numbers.shared(1, 32).unwrap();
    assert_eq!((a, b), (0, 16));
    assert!(c >= 17, "{c}");
    assert_eq!(
        numbers.shared(3, 16).unwrap(),
        0,
        "what a larger need left behind"
    );
}
