//! What two parents hold rots on their disks: checksums catch it, and who reads has it from another node.

use std::time::Duration;

use darter_tests::{BLOCK_BYTES, pause, rot};

use super::{MIB, Scene, pull};

#[test]
fn what_rots_in_the_slabs_of_parents_is_healed_from_another_node_and_not_from_the_registry() {
    let scene = Scene::new();
    let blob = scene.origin.blob(1, 4 * MIB + 77);
    let parents = [scene.peer(), scene.peer()];
    // The owner gives each block twice; who comes then is sent to these two.
    parents.iter().for_each(|parent| pull(parent, &blob));
    let child = scene.peer();
    for parent in &parents {
        assert_eq!(rot(parent, &blob) as u64, blob.len().div_ceil(BLOCK_BYTES));
    }
    // What was found right within this second is not looked at again.
    pause(Duration::from_millis(1100));
    scene.origin.forget();
    // Part by part, as who waits for each reads.
    for start in (0..4 * MIB).step_by(512 << 10) {
        blob.read(&mut child.client(), start..start + (512 << 10)).expect("it comes");
    }
    let found =
        || parents.iter().map(|parent| parent.metrics().sum("darter_cache_checks_failed_total")).sum::<f64>();
    assert!(found() > 0.0, "nobody has asked the parents");
    assert_eq!(child.metrics().sum("darter_peer_wrong_blocks_total"), 0.0, "rot is not passed on");
    // At the parents themselves as well.
    for reader in parents.iter().chain([&child]) {
        pull(reader, &blob);
    }
    assert_eq!(scene.origin.blob_bytes(), 0, "the registry is asked for nothing again");
}
