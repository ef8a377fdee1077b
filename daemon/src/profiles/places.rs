//! Where the stacks of a profile are in the code, with the names of functions where this binary has symbols.

use std::collections::HashMap;

use super::modules::Modules;
use super::pprof::{Named, Place};

/// The places of a profile, each once.
pub(super) struct Places<'a> {
    pub(super) all: Vec<Place>,
    known: HashMap<u64, usize>,
    modules: &'a Modules,
}

impl<'a> Places<'a> {
    pub(super) fn new(modules: &'a Modules) -> Self {
        Self { all: Vec::new(), known: HashMap::new(), modules }
    }

    /// The numbers of a stack's places.
    pub(super) fn of(&mut self, addresses: &[u64]) -> Vec<usize> {
        let numbers = addresses.iter().map(|&address| {
            *self.known.entry(address).or_insert_with(|| {
                let mapping = self.modules.mapping(address);
                self.all.push(Place { address, mapping, functions: functions(address) });
                self.all.len() - 1
            })
        });
        numbers.collect()
    }
}

/// What a profile says of itself.
pub(super) fn comment(lost: u64) -> String {
    format!("darter {}; {lost} samples for which there was no room", env!("CARGO_PKG_VERSION"))
}

/// Innermost first; the last one is the function that the others were inlined into.
fn functions(address: u64) -> Vec<Named> {
    let mut functions = Vec::new();
    let address = std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0));
    backtrace::resolve(address, |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
        functions.push(Named {
            // Without the hash.
            name: format!("{name:#}"),
            file,
            line: symbol.lineno().unwrap_or(0),
        });
    });
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_of_this_test() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_has_its_name() {
        let address = a_function_of_this_test as fn() -> u64 as usize as u64 + 1;
        assert_eq!(a_function_of_this_test(), 7);
        let names: Vec<_> = functions(address).into_iter().map(|function| function.name).collect();
        assert!(names.iter().any(|name| name.ends_with("a_function_of_this_test")), "{names:?}");
    }
}
