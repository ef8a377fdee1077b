//! Who is asked while the disk works.

use std::cell::RefCell;
use std::rc::Rc;

/// Who is asked while the disk works, and told before the power goes.
pub(in crate::simulation) trait Director {
    /// Others may go on now.
    fn interleave(&self);
    /// The power is about to go: what is promised at this moment must be found.
    fn before_crash(&self);
}

thread_local! {
    static DIRECTOR: RefCell<Option<Rc<dyn Director>>> = const { RefCell::new(None) };
}

/// Who directs the disks of this thread from now on.
pub(in crate::simulation) fn set_director(director: Option<Rc<dyn Director>>) {
    DIRECTOR.set(director);
}

pub(super) fn director() -> Option<Rc<dyn Director>> {
    DIRECTOR.with_borrow(Clone::clone)
}
