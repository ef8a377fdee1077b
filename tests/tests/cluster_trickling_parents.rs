//! Three of twelve peers have all of an image and send it a byte a second. Whoever asks them is not held up: bytes that
//! trickle are no block, and another source is asked in their place.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use darter_tests::need::need;
use darter_tests::net::{Cluster, NETWORK, Plan, TricklingPort, at_once};

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 50_000_000;
const SEEDS: usize = 3;
const PEERS: usize = 12;
const PARENTS: usize = 3;
const READ_BYTES: u64 = 64 << 10;

#[test]
fn readers_hardly_notice() {
    if !need("readers_hardly_notice", &NETWORK) {
        return;
    }
    let plan = || Plan::new(SEEDS, PEERS).bits_per_s(BITS_PER_S);
    let quick = p99(&plan().start());
    let (parents, readers) = (SEEDS..SEEDS + PARENTS, SEEDS + PARENTS..SEEDS + PEERS);
    // A connection carries requests both ways, whoever opened it: these are not to have any past the trickling ports.
    let (mut ports, plan) = (Vec::new(), plan().deaf(parents.clone(), readers));
    let cluster = plan.start_seen(|_, between, own| {
        let open = |(number, own): (u8, &SocketAddr)| TricklingPort::open(between, number, *own);
        ports = (1..).zip(&own[parents.clone()]).map(open).collect();
        let mut seen = own.to_vec();
        seen[parents].iter_mut().zip(&ports).for_each(|(seen, port)| *seen = port.address());
        seen
    });
    let slow = p99(&cluster);
    println!("p99 of reads: {quick:?} from quick parents, {slow:?} where three trickle");
    assert!(slow <= quick.mul_f64(1.5), "{slow:?} where three parents trickle, {quick:?} where none does");
    // Which parents a reader asks is chance; that one of them got nowhere at one of them is not.
    let readers: BTreeSet<IpAddr> =
        cluster.peers()[PARENTS..].iter().map(|reader| reader.host().address().into()).collect();
    let held_up = ports.iter().flat_map(|port| port.held_up()).filter(|who| readers.contains(who)).count();
    println!("readers that were held up: {held_up} times");
    assert!(held_up > 0, "no reader asked a parent that trickles: this has shown nothing");
}

/// Of reads of single blocks, in an order of each reader's own, when three peers have read all before.
fn p99(cluster: &Cluster) -> Duration {
    cluster.wait_until_joined();
    let blob = cluster.origin().blob(1, 16 * MIB);
    let (parents, readers) = cluster.peers().split_at(PARENTS);
    at_once(parents, |parent| parent.pull(&blob));
    let times = Mutex::new(Vec::new());
    let makespan = at_once(readers, |reader| {
        let mut random = fastrand::Rng::with_seed(u32::from(reader.host().address()).into());
        let mut starts: Vec<u64> = (0..blob.len()).step_by(READ_BYTES as usize).collect();
        random.shuffle(&mut starts);
        let mut client = reader.client();
        for start in starts {
            let asked = Instant::now();
            blob.read(&mut client, start..start + READ_BYTES).expect("a reader is served");
            times.lock().expect("no holder panics").push(asked.elapsed());
        }
    });
    let mut times = times.into_inner().expect("no holder panics");
    times.sort_unstable();
    let given = cluster.origin().blob_bytes() as f64 / blob.len() as f64;
    println!("{makespan}; {} reads; the registry gave {given:.3} of the blob", times.len());
    times[times.len() * 99 / 100]
}
