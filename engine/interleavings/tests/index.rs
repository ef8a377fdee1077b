//! The index in every interleaving of two threads.

#[test]
fn a_reader_by_name_never_gets_the_next_content() {
    darter_interleavings::a_reader_by_name_never_gets_the_next_content();
}

#[test]
fn a_name_has_one_content() {
    darter_interleavings::a_name_has_one_content();
}

#[test]
fn a_content_is_made_while_it_is_removed() {
    darter_interleavings::a_content_is_made_while_it_is_removed();
}

#[test]
fn what_is_removed_is_not_found_under_another_registry() {
    darter_interleavings::what_is_removed_is_not_found_under_another_registry();
}

#[test]
fn what_passes_is_found_all_the_while() {
    darter_interleavings::what_passes_is_found_all_the_while();
}

#[test]
fn bytes_of_another_registry_are_its_own() {
    darter_interleavings::bytes_of_another_registry_are_its_own();
}

/// The rule that it rests on: the index first, the bytes then.
#[test]
#[should_panic(expected = "another registry's bytes")]
fn bytes_before_their_registry_are_read_by_others() {
    darter_interleavings::bytes_before_their_registry();
}
