//! The connection of the membership.

use super::*;

#[test]
fn the_membership_has_a_connection_of_its_own() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (one, other) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Seed, lanes));
            let apart = one.mesh.apart(other.node.address).await.expect("reached");
            assert!(apart.is_apart() && apart.node() == &other.node);
            let mut exchange = apart.ask(gossip()).await.expect("asked");
            assert!(matches!(exchange.next().await, Ok(Some(Message::Refused(_)))));
            assert_eq!(other.heard.asked.get(), 1);
            // Nobody takes it for one on which data moves.
            assert!(other.mesh.sessions().is_empty() && one.mesh.sessions().is_empty());
            let session = one.mesh.session(&other.node).await.expect("reached");
            assert!(!session.is_apart() && one.mesh.sessions().len() == 1);
            other.heard.until(|heard| heard.up.borrow().len() == 1).await;
            // It ends with its holder.
            let line = Rc::clone(&apart.line);
            let open = || other.mesh.state.borrow().lines.len();
            assert_eq!(open(), 2);
            drop((exchange, apart));
            assert!(matches!(line.connection.closed().await, LaneError::ClosedHere));
            while open() > 1 {
                sleep(Duration::from_millis(5)).await;
            }
            Station::takes(&session, 1, 0).await;
            assert_eq!(other.heard.down.get(), 0);
        });
    }
}

#[test]
fn only_seeds_are_members_and_only_gossip_is_said_apart() {
    run(async {
        let secrets = secrets();
        let seed = station(&secrets, Role::Seed, Lanes::Quic);
        let peer = station(&secrets, Role::Peer, Lanes::Quic);
        let refused = peer.mesh.apart(seed.node.address).await.expect_err("a peer");
        assert_eq!(refused.code(), Code::Forbidden, "{refused}");
        let refused = seed.mesh.apart(peer.node.address).await.expect_err("a peer");
        assert_eq!(refused.code(), Code::Forbidden, "{refused}");
        let other = station(&secrets, Role::Seed, Lanes::Quic);
        let apart = other.mesh.apart(seed.node.address).await.expect("reached");
        let _exchange = apart.ask(Watch { plot: plot() }).await;
        apart.over().await;
        let apart = other.mesh.apart(seed.node.address).await.expect("reached");
        assert!(apart.tell(holds(1)));
        apart.over().await;
        assert!(seed.heard.told.borrow().is_empty() && seed.heard.asked.get() == 0);
    });
}
