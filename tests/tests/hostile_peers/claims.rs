//! A peer's certificate that says what only seeds may: who owns, what is right, what is to be purged, who is there.

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use darter_tests::intruder::Intruder;
use darter_transport::boot_list::BootList;
use darter_transport::lane::Lanes;
use darter_transport::node::Role;
use darter_transport::wire::{
    Attested, BootOrder, Code, Description, Gossip, Holders, List, MapOf, MapPart, Message, Opaque, Proof,
    Purge, Seeds, Text,
};

use super::{MIB, Scene, identity, pull, runtime};

#[test]
fn a_peer_that_claims_to_own_to_attest_or_to_purge_is_refused() {
    let mut scene = Scene::new();
    let (first, blob) = (scene.peer(), scene.origin.blob(1, MIB + 5));
    pull(&first, &blob);
    let plot = scene.plot(&blob, 0);
    let (content, scope) = (plot.content, plot.scope);
    let intruder = || identity(&scene.peer_secrets(), SystemTime::now());
    let owner = intruder().own().id;
    let (media_type, validator, verdict) = (Text::cut(""), Text::cut(""), Opaque::default());
    let claims: Vec<Message> = vec![
        Seeds { seeds: List::default() }.into(),
        Gossip { packet: Opaque::new(Bytes::from_static(b"news")).expect("short") }.into(),
        Description { length: 1, scope, by_span: false, owner, media_type, validator }.into(),
        Holders { holders: List::default() }.into(),
        Attested { first: 0, digests: List::first_of([[7; 32]]) }.into(),
        Purge { content, scope }.into(),
        Proof { granted: true, lasts_s: 3600, verdict }.into(),
        BootOrder { runs: BootList::default() }.into(),
        MapOf { content, scope }.into(),
        MapPart { plot, length: MIB + 5, holders: List::default() }.into(),
    ];
    let forbidden = u32::from(Code::Forbidden.number());
    let at: SocketAddr = scene.at.parse().expect("an address");
    runtime().block_on(async {
        let intruder = Intruder::new(intruder(), Lanes::Auto);
        for claim in claims {
            // Where it is told, and where it would be an answer or a request.
            let mut told = intruder.enter(at).await;
            told.control.say(&claim).await.expect("the session stands");
            assert_eq!(told.is_closed_with().await, forbidden, "{}", claim.name());
            let asked = intruder.enter(at).await;
            asked.send(claim.encode()).await.expect("the session stands");
            assert_eq!(asked.is_closed_with().await, forbidden, "{}", claim.name());
        }
        // And in its first word.
        let connection = intruder.connect(at).await.expect("its certificate is right");
        let (mut control, _answers) = connection.open().await.expect("the seed takes streams");
        control.write(intruder.hello(Role::Seed).encode()).await.expect("the seed hears");
        let closed = connection.closed().await;
        assert!(closed.to_string().contains("another role than its certificate"), "{closed}");
    });
    let log = scene.seed.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("code=Forbidden")), "{log}");
    // Nothing was purged, nobody else is a seed, and what is right still is.
    pull(&scene.peer(), &blob);
    assert_eq!(scene.origin.blob_bytes(), blob.len());
    let seeds = scene.seed.metrics().sum("darter_cluster_seeds");
    assert_eq!(seeds, 1.0);
    scene.check_the_seed();
}
