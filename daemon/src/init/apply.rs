//! Writes a plan, or takes one back, as a whole.

use super::plan::{Plan, Refusal};
use super::record::{Keeping, Lock, RecordError, State};
use super::tree::{Root, TreeError};

/// What to do between two steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    On,
    /// Somebody wants it to end.
    Back,
    /// Like a crash: nothing further happens.
    #[cfg(test)]
    Crash,
}

/// Why nothing has changed. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("interrupted")]
    Interrupted,
    #[error(
        "{error}; what an earlier darter init had written here was taken back first, and could not be put in place again \
         ({again}): say it again when that is put right"
    )]
    TakenBack { error: Box<ApplyError>, again: Box<ApplyError> },
    #[error(
        "{error}; and what was written already could not be taken back: {back}; darter init … --undo tries it again"
    )]
    HalfDone { error: Box<ApplyError>, back: Box<ApplyError> },
    #[cfg(test)]
    #[error("crashed")]
    Crashed,
}

/// Writes the files of a plan. `turn` is asked before each step.
///
/// # Errors
/// Everything is as it was before, unless the error says otherwise.
pub(super) fn apply(
    root: &Root,
    keeping: &Keeping,
    plan: &Plan,
    lock: &Lock,
    turn: &mut dyn FnMut() -> Turn,
) -> Result<(), ApplyError> {
    if plan.changes.is_empty() {
        return Ok(());
    }
    on(turn)?;
    let record = keeping.keep(plan, lock)?;
    let mut write = || -> Result<(), ApplyError> {
        for directory in &record.directories {
            on(turn)?;
            root.make_directory(directory)?;
        }
        for (change, written) in plan.changes.iter().zip(&record.files) {
            on(turn)?;
            let owner = written.before.as_ref().map(|before| before.owner);
            root.replace(&change.path, change.before.as_deref(), &change.after, owner)?;
        }
        on(turn)
    };
    match write() {
        Ok(()) => Ok(()),
        #[cfg(test)]
        Err(ApplyError::Crashed) => Err(ApplyError::Crashed),
        Err(error) => match undo(root, keeping, &mut || Turn::On) {
            Ok(_) => Err(error),
            Err(back) => Err(ApplyError::HalfDone { error: error.into(), back: back.into() }),
        },
    }
}

/// Takes back what earlier runs have written, and writes the files of a plan that was made for what was there before
/// those. Returns the files that are none of the plan's, and are as they were before.
///
/// # Errors
/// Everything is as the earlier runs have left it, unless the error says otherwise.
pub(super) fn replace(
    root: &Root,
    keeping: &Keeping,
    plan: &Plan,
    lock: &Lock,
    turn: &mut dyn FnMut() -> Turn,
) -> Result<Vec<String>, ApplyError> {
    let earlier = keeping.as_plan()?;
    let mut undone = undo(root, keeping, turn)?;
    match apply(root, keeping, plan, lock, turn) {
        Ok(()) => {
            undone.retain(|path| plan.changes.iter().all(|change| change.path != *path));
            Ok(undone)
        }
        #[cfg(test)]
        Err(ApplyError::Crashed) => Err(ApplyError::Crashed),
        // The record of the plan is still needed.
        Err(error @ ApplyError::HalfDone { .. }) => Err(error),
        Err(error) => match apply(root, keeping, &earlier, lock, &mut || Turn::On) {
            Ok(()) => Err(error),
            Err(again) => Err(ApplyError::TakenBack { error: error.into(), again: again.into() }),
        },
    }
}

/// Puts back what was there before, and returns which files that were; none if nothing was written. Each is looked at
/// before any is touched. What is interrupted goes on with the next call.
///
/// # Errors
/// A file is not as darter has written it, and nothing was touched.
pub(super) fn undo(
    root: &Root,
    keeping: &Keeping,
    turn: &mut dyn FnMut() -> Turn,
) -> Result<Vec<String>, ApplyError> {
    keeping.clean_up()?;
    let Some(record) = keeping.record()? else { return Ok(Vec::new()) };
    let mut steps = Vec::new();
    for written in &record.files {
        let (state, now) = keeping.state(written)?;
        if state == State::After {
            steps.push((written, now, keeping.before(written)?));
        }
    }
    on(turn)?;
    for written in &record.files {
        root.remove_unfinished(&written.path)?;
    }
    for (written, now, before) in steps {
        // From here on it goes to the end: half a way back is no better place.
        #[cfg(test)]
        if turn() == Turn::Crash {
            return Err(ApplyError::Crashed);
        }
        match (before, &written.before) {
            (Some(bytes), Some(before)) => {
                root.replace(&written.path, now.as_deref(), &bytes, Some(before.owner))?;
            }
            _ => root.remove(&written.path)?,
        }
    }
    record.directories.iter().rev().for_each(|directory| root.remove_directory(directory));
    keeping.forget()?;
    Ok(record.files.into_iter().map(|written| written.path).collect())
}

fn on(turn: &mut dyn FnMut() -> Turn) -> Result<(), ApplyError> {
    match turn() {
        Turn::On => Ok(()),
        Turn::Back => Err(ApplyError::Interrupted),
        #[cfg(test)]
        Turn::Crash => Err(ApplyError::Crashed),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::super::plan::Change;
    use super::*;

    const OLD: &[u8] = b"{\"a\": 1}\n";

    struct Scene {
        home: tempfile::TempDir,
        root: Root,
        keeping: Keeping,
        plan: Plan,
        before: BTreeMap<String, (Vec<u8>, u32)>,
    }

    impl Scene {
        /// One file that changes, and two that are made in directories that are not there.
        fn new() -> Scene {
            let home = tempfile::tempdir().unwrap();
            fs::create_dir(home.path().join("etc")).unwrap();
            let old = home.path().join("etc/old.json");
            fs::write(&old, OLD).unwrap();
            fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
            let root = Root::open(home.path()).unwrap();
            let keeping = Keeping::of(&root, "client");
            let change = |path: &str, before: Option<&[u8]>, after: &str| Change {
                path: path.into(),
                before: before.map(<[u8]>::to_vec),
                after: after.into(),
            };
            let changes = vec![
                change("/etc/certs.d/a/hosts.toml", None, "a"),
                change("/etc/old.json", Some(OLD), "{\"a\": 2}\n"),
                change("/etc/certs.d/b/hosts.toml", None, "b"),
            ];
            let mut scene = Scene {
                home,
                root,
                keeping,
                plan: Plan { changes, ..Plan::default() },
                before: BTreeMap::new(),
            };
            scene.before = scene.all();
            scene
        }

        /// Every file and directory, what it holds and its mode.
        fn all(&self) -> BTreeMap<String, (Vec<u8>, u32)> {
            fn walk(at: &Path, all: &mut BTreeMap<String, (Vec<u8>, u32)>) {
                for entry in fs::read_dir(at).unwrap() {
                    let path = entry.unwrap().path();
                    let mode = fs::metadata(&path).unwrap().permissions().mode();
                    let held = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
                    all.insert(path.display().to_string(), (held, mode));
                    if path.is_dir() {
                        walk(&path, all);
                    }
                }
            }
            let mut all = BTreeMap::new();
            walk(self.home.path(), &mut all);
            all
        }

        /// As the command does it; `turns` are answered one after the other, then all goes on.
        fn apply(&self, turns: &mut dyn FnMut() -> Turn) -> Result<(), ApplyError> {
            let lock = self.keeping.lock()?;
            apply(&self.root, &self.keeping, &self.plan, &lock, turns)
        }

        fn undo(&self, turns: &mut dyn FnMut() -> Turn) -> Result<Vec<String>, ApplyError> {
            let _lock = self.keeping.lock()?;
            undo(&self.root, &self.keeping, turns)
        }

        fn is_applied(&self) -> bool {
            self.keeping.is_as(&self.root, &self.plan).unwrap()
        }
    }

    /// Goes on so many times, and then does something else for good.
    fn after(mut steps: usize, then: Turn) -> impl FnMut() -> Turn {
        move || {
            let turn = if steps == 0 { then } else { Turn::On };
            steps = steps.saturating_sub(1);
            turn
        }
    }

    #[test]
    fn what_is_written_is_undone_byte_by_byte() {
        let scene = Scene::new();
        scene.apply(&mut || Turn::On).unwrap();
        assert!(scene.is_applied());
        let changed = scene.home.path().join("etc/old.json");
        assert_eq!(fs::metadata(changed).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read(scene.keeping.backup("/etc/old.json")).unwrap(), OLD);
        let undone = scene.undo(&mut || Turn::On).unwrap();
        assert_eq!(undone, ["/etc/certs.d/a/hosts.toml", "/etc/old.json", "/etc/certs.d/b/hosts.toml"]);
        assert_eq!(scene.all(), scene.before);
        assert!(scene.undo(&mut || Turn::On).unwrap().is_empty());
        assert_eq!(scene.all(), scene.before, "not even a lock is left");
    }

    #[test]
    fn an_interruption_at_any_step_leaves_nothing() {
        let mut steps = 0;
        loop {
            let scene = Scene::new();
            match scene.apply(&mut after(steps, Turn::Back)) {
                Ok(()) => break,
                Err(ApplyError::Interrupted) => assert_eq!(scene.all(), scene.before, "after {steps} steps"),
                Err(error) => panic!("{error}"),
            }
            steps += 1;
        }
        assert!(steps >= 6, "{steps}");
    }

    #[test]
    fn a_crash_at_any_step_is_undone_later() {
        let mut steps = 0;
        loop {
            let scene = Scene::new();
            match scene.apply(&mut after(steps, Turn::Crash)) {
                Ok(()) => break,
                Err(ApplyError::Crashed) => {
                    let _ = scene.undo(&mut || Turn::On).unwrap();
                    assert_eq!(scene.all(), scene.before, "after {steps} steps");
                }
                Err(error) => panic!("{error}"),
            }
            steps += 1;
        }
        assert!(steps >= 6, "{steps}");
    }

    #[test]
    fn a_crash_while_it_is_undone_is_undone_later() {
        for steps in 0..4 {
            let scene = Scene::new();
            scene.apply(&mut || Turn::On).unwrap();
            let crashed = scene.undo(&mut after(steps, Turn::Crash));
            assert!(matches!(crashed, Err(ApplyError::Crashed)), "{steps}: {crashed:?}");
            scene.undo(&mut || Turn::On).unwrap();
            assert_eq!(scene.all(), scene.before, "after {steps} steps");
        }
    }

    #[test]
    fn a_step_that_fails_takes_the_others_back() {
        let scene = Scene::new();
        // Somebody writes the second file in the middle.
        let path = scene.home.path().join("etc/old.json");
        let mut steps = 0;
        let failed = scene.apply(&mut || {
            steps += 1;
            if steps == 5 {
                fs::write(&path, "theirs").unwrap();
            }
            Turn::On
        });
        // What is neither as it was nor as darter writes it is nobody's to take back.
        assert!(matches!(failed, Err(ApplyError::HalfDone { .. })), "{failed:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        fs::write(&path, OLD).unwrap();
        scene.undo(&mut || Turn::On).unwrap();
        assert_eq!(scene.all(), scene.before);

        // A file where a directory would have to be made.
        fs::write(scene.home.path().join("etc/certs.d"), "in the way").unwrap();
        let before = scene.all();
        assert!(matches!(scene.apply(&mut || Turn::On), Err(ApplyError::Record(_) | ApplyError::Tree(_))));
        assert_eq!(scene.all(), before);
    }

    #[test]
    fn what_was_edited_since_is_left_alone() {
        let scene = Scene::new();
        scene.apply(&mut || Turn::On).unwrap();
        let path = scene.home.path().join("etc/old.json");
        fs::write(&path, "edited").unwrap();
        let all = scene.all();
        let refused = scene.undo(&mut || Turn::On).unwrap_err().to_string();
        for word in [
            "old.json has changed since",
            "nothing was touched",
            "by hand",
            "then remove",
            "darter/init/client",
        ] {
            assert!(refused.contains(word), "no {word:?} in {refused}");
        }
        assert_eq!(scene.all(), all);
        // A copy that is not what was kept puts nothing back.
        fs::write(&path, "{\"a\": 2}\n").unwrap();
        fs::write(scene.keeping.backup("/etc/old.json"), "rotten").unwrap();
        let refused = scene.undo(&mut || Turn::On).unwrap_err().to_string();
        assert!(
            refused.contains("then remove") && refused.ends_with("var/lib/darter/init/client"),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\": 2}\n");
    }

    #[test]
    fn a_file_of_ours_that_somebody_removed_is_as_it_was() {
        let scene = Scene::new();
        scene.apply(&mut || Turn::On).unwrap();
        fs::remove_file(scene.home.path().join("etc/certs.d/a/hosts.toml")).unwrap();
        fs::write(scene.home.path().join("etc/certs.d/b/other"), "theirs").unwrap();
        scene.undo(&mut || Turn::On).unwrap();
        let left: Vec<_> = scene.all().into_keys().filter(|path| !scene.before.contains_key(path)).collect();
        assert!(
            left.iter().all(|path| path.contains("etc/certs.d")),
            "a directory that is in use stays: {left:?}"
        );
        assert_eq!(left.len(), 3);
    }

    /// The files were put back, and of the record a part had gone, when the machine stopped: nobody could say init for
    /// that client any more.
    #[test]
    fn a_crash_while_the_record_goes_wedges_nothing() {
        let parts = ["record.json", "etc+old.json"];
        for (name, gone) in
            [("client", 1), ("client", 0), ("client.old", 0), ("client.old", 1), ("client.new", 0)]
        {
            let scene = Scene::new();
            scene.apply(&mut || Turn::On).unwrap();
            let kept = scene.home.path().join("var/lib/darter/init");
            for (written, before) in
                [("a/hosts.toml", None), ("../old.json", Some(OLD)), ("b/hosts.toml", None)]
            {
                let path = scene.home.path().join("etc/certs.d").join(written);
                match before {
                    Some(before) => fs::write(path, before).unwrap(),
                    None => fs::remove_file(path).unwrap(),
                }
            }
            fs::remove_file(kept.join("client").join(parts[gone])).unwrap();
            if name != "client" {
                fs::rename(kept.join("client"), kept.join(name)).unwrap();
            }
            scene
                .apply(&mut || Turn::On)
                .or_else(|_| {
                    scene.undo(&mut || Turn::On)?;
                    scene.apply(&mut || Turn::On)
                })
                .unwrap();
            assert!(scene.is_applied(), "{name} without {}", parts[gone]);
            scene.undo(&mut || Turn::On).unwrap();
            let left: Vec<_> = fs::read_dir(&kept).into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[test]
    fn a_crash_before_a_file_gets_its_name_leaves_nothing() {
        let scene = Scene::new();
        scene.apply(&mut || Turn::On).unwrap();
        for unfinished in ["etc/.old.json.darter-new", "etc/certs.d/a/.hosts.toml.darter-new"] {
            fs::write(scene.home.path().join(unfinished), "half").unwrap();
        }
        scene.undo(&mut || Turn::On).unwrap();
        assert_eq!(scene.all(), scene.before);
    }

    #[test]
    fn another_plan_takes_the_place_of_the_first_or_nothing_happens() {
        let mut steps = 0;
        loop {
            let scene = Scene::new();
            scene.apply(&mut || Turn::On).unwrap();
            let first = scene.all();
            let mut other = scene.plan.clone();
            other.changes.remove(0);
            other.changes[0].after = b"{\"a\": 3}\n".to_vec();
            let lock = scene.keeping.lock().unwrap();
            match replace(&scene.root, &scene.keeping, &other, &lock, &mut after(steps, Turn::Back)) {
                Ok(taken_back) => {
                    assert_eq!(taken_back, ["/etc/certs.d/a/hosts.toml"]);
                    assert!(scene.keeping.is_as(&scene.root, &other).unwrap());
                    drop(lock);
                    scene.undo(&mut || Turn::On).unwrap();
                    assert_eq!(scene.all(), scene.before);
                    break;
                }
                Err(ApplyError::Interrupted) => assert_eq!(scene.all(), first, "after {steps} steps"),
                Err(error) => panic!("{error}"),
            }
            steps += 1;
        }
        assert!(steps >= 5, "{steps}");
    }

    #[test]
    fn one_at_a_time() {
        let scene = Scene::new();
        let held = scene.keeping.lock().unwrap();
        assert!(matches!(scene.apply(&mut || Turn::On), Err(ApplyError::Record(RecordError::Busy))));
        drop(held);
        scene.apply(&mut || Turn::On).unwrap();
    }
}
