//! A first copy that appends.

use super::*;
use crate::domain::change::Change;
use crate::domain::checkpoint::TopicPartition;

/// Appended rows meet their delete marks only when the copy is whole: marks that went before brought the
/// rows back.
#[test]
fn no_delete_mark_goes_before_what_was_appended_is_joined() {
    let bench = bench();
    let shape = &catalog().tables[2];
    let of_uuid = |change: Change, values| Change { table: 2, topic: 1, values, ..change };
    let written = |nth| of_uuid(upsert(nth, 10), row(shape, nth, 10, 0xFF));
    let mut store = bench.try_open().unwrap();
    store.apply(&batch([written(1), written(2)])).unwrap();
    store.apply(&batch([of_uuid(delete(1, 20), key_row(shape, 1))])).unwrap();
    store.apply(&fresh_as_of(TopicPartition { topic: 1, partition: 0 }, NOW_MS + 60_001)).unwrap();
    assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 0);
    store.complete().unwrap();
    let look = |nth| bench.reader().row(2, &key(shape, nth)).unwrap();
    assert!(matches!(look(1), RowLookup::Deleted { .. }), "{:?}", look(1));
    assert!(matches!(look(2), RowLookup::Visible { .. }), "{:?}", look(2));
    assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 1);
}
