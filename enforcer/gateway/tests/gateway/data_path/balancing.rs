//! Which endpoint a request goes to.

use enforcer_model::{Balance, HashKey};

use crate::data_path::{
    bounds::{held, number, one_worker, set},
    support::{
        Plan,
        client::{self, Client, H1},
        eventually,
        origin::Origin,
        policy,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_with_their_endpoints() {
    let origins = [
        Origin::start().await,
        Origin::start().await,
        Origin::start().await,
    ];
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let requests = || origins.iter().map(Origin::requests).collect::<Vec<_>>();
    for (balance, path, field) in [
        (
            Balance::Maglev(HashKey::Header("x-user".parse().unwrap())),
            "/",
            Some(("x-user", "u7")),
        ),
        (
            Balance::RingHash(HashKey::Cookie("sid".into())),
            "/",
            Some(("cookie", "a=b; sid=u7; c=d")),
        ),
        (
            Balance::Maglev(HashKey::Query("user".into())),
            "/?a=b&user=u7",
            None,
        ),
        (Balance::RingHash(HashKey::Path), "/u7", None),
        (Balance::Maglev(HashKey::Source), "/", None),
    ] {
        let mut service = policy::service(&addresses);
        service.balance = balance;
        // Over two workers: they agree.
        let lab = Plan::default().start(set(service));
        let before = requests();
        for _ in 0..8 {
            let mut client = Client::connect(&lab, H1).await;
            let mut request = client::get(path);
            if let Some((name, value)) = field {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            assert_eq!(client.send(request).await.unwrap().status, 200);
        }
        let mut more: Vec<_> = requests()
            .iter()
            .zip(before)
            .map(|(now, before)| now - before)
            .collect();
        more.sort_unstable();
        assert_eq!(more, [0, 0, 8], "{path} {field:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_zone_comes_first() {
    let (near, far) = (Origin::start().await, Origin::start().await);
    let mut service = policy::service(&[far.address, near.address]);
    service.endpoints[0].zone = Some("b".into());
    service.endpoints[1].zone = Some("a".into());
    service.limits.connections = number(1);
    let plan = Plan {
        zone: Some("a".into()),
        ..one_worker()
    };
    let lab = plan.start(set(service));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((near.requests(), far.requests()), (10, 0));
    let first = held(&lab).await;
    eventually("the near one is full", async || near.requests() == 11).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(far.requests(), 1, "the other zone helps out");
    near.state.gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
}
