//! Everything that can change changes while clients ask: nothing is lost but what the change is meant to refuse.
//!
//! Clients of both families and both protocols, some on one connection and some on a new one for each request, ask in a
//! closed loop from the first change to the last. Each change is seen to hold before the next, and counts the requests
//! that began and ended while it was under way.

mod certificates;
mod ground;
mod keys;
mod load;
mod policies;
mod table;
mod upstreams;

use ground::Ground;
use table::Table;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_while_everything_changes() {
    let mut ground = Ground::start().await;
    let mut table = Table::default();
    for version in certificates::VERSIONS {
        let what = format!("server certificate: link swapped to {version}");
        table.add(
            ground
                .load
                .under(&what, certificates::swap(&ground, version))
                .await,
        );
    }
    let doomed = ground.doomed().await;
    let what = "revocation list: a certificate that nobody uses";
    table.add(
        ground
            .load
            .under(what, certificates::revoke(&ground, &[certificates::UNUSED]))
            .await,
    );
    assert_eq!(doomed.cut(), 0, "the other certificate is not revoked yet");
    let what = "revocation list: a certificate in use";
    let revoke = certificates::revoke(&ground, &[certificates::UNUSED, certificates::DOOMED]);
    let mut row = ground.load.under(what, revoke).await;
    row.refused = doomed.all_cut().await;
    table.add(row);
    let what = "client authorities: one more";
    table.add(
        ground
            .load
            .under(what, certificates::trust_another(&ground))
            .await,
    );

    table.add(
        ground
            .load
            .under("issuer: tokens by a new key", keys::add(&ground))
            .await,
    );
    table.add(
        ground
            .load
            .under("issuer: the old key is withdrawn", keys::withdraw(&ground))
            .await,
    );
    table.add(ground.load.under("issuer: fails", keys::fail(&ground)).await);
    ground.idp.stop().await;
    let mut files = policies::Files::watch(&ground);
    let what = "issuer: gone; policy files: 50 times, 10 of them broken";
    table.add(ground.load.under(what, files.rewrite(&ground)).await);
    ground.idp.start_again().await;
    let what = "issuer: back, tokens by a third key";
    table.add(ground.load.under(what, keys::come_back(&ground)).await);

    for way in upstreams::WAYS {
        for position in 0..ground::UPSTREAMS {
            let upstream = ground.upstreams[position].take();
            let family = if ground.addresses[position].is_ipv6() {
                "IPv6"
            } else {
                "IPv4"
            };
            let what = format!(
                "{family} upstream of two: {way} and returned, {} times",
                upstreams::TIMES
            );
            let lost = upstreams::lose_and_return(&ground, upstream, way);
            let (row, upstream) = ground.load.with(&what, lost).await;
            table.add(row);
            ground.upstreams[position] = Some(upstream);
        }
    }
    ground.load.end().await;
    println!("{table}");
}
