//! A slot's life in every interleaving of a few threads.

#[test]
fn a_reader_never_sees_the_next_tenant() {
    darter_interleavings::a_reader_never_sees_the_next_tenant();
}

/// The rule that the others rest on: without it the model finds the reader of a stranger's bytes.
#[test]
#[should_panic(expected = "the next tenant's bytes")]
fn a_reader_that_does_not_look_again_sees_the_next_tenant() {
    darter_interleavings::a_reader_that_looks_once();
}

#[test]
fn a_lost_piece_stays_until_its_reader_is_done() {
    darter_interleavings::a_lost_piece_stays_until_its_reader_is_done();
}

#[test]
fn no_check_outlives_the_beginning_of_a_read() {
    darter_interleavings::no_check_outlives_the_beginning_of_a_read();
}

#[test]
fn a_block_has_one_writer() {
    darter_interleavings::a_block_has_one_writer();
}
