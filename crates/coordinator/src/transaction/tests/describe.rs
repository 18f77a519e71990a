use kafka_protocol::messages::{ListTransactionsRequest, ProducerId};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;

use super::harness::{FIRST_ID, Harness, ID, TIMEOUT_MS, TV2};
use crate::transaction::{TransactionRequest, TransactionResponse};

fn strings(texts: &[&str]) -> Vec<StrBytes> {
    texts.iter().map(|text| StrBytes::from_string((*text).to_owned())).collect()
}

/// Ids listed, unknown filters, error.
fn list(harness: &mut Harness, request: ListTransactionsRequest) -> (Vec<String>, Vec<String>, i16) {
    match harness.request(&TransactionRequest::List(request)) {
        TransactionResponse::List(response) => (
            response.transaction_states.iter().map(|listed| listed.transactional_id.to_string()).collect(),
            response.unknown_state_filters.iter().map(ToString::to_string).collect(),
            response.error_code,
        ),
        other => panic!("{other:?}"),
    }
}

fn all() -> ListTransactionsRequest {
    ListTransactionsRequest::default().with_duration_filter(-1)
}

/// `pay-1` is Empty, `pay-2` too, `tx` is Ongoing since 5 s.
fn three() -> Harness {
    let mut harness = Harness::new();
    for id in ["pay-1", "pay-2"] {
        harness.init_with(id, TIMEOUT_MS, None).expect("a producer");
    }
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[0, 3], TV2), Ok(()));
    harness.advance(5_000);
    harness
}

#[test]
fn describes_what_is_there_and_says_what_is_not() {
    let mut harness = three();
    let ids = [ID, "none", ""].map(Into::into).to_vec();
    let describe = |harness: &mut Harness| match harness.request(&TransactionRequest::Describe(ids.clone())) {
        TransactionResponse::Describe(described) => described,
        other => panic!("{other:?}"),
    };
    let described = describe(&mut harness);
    let codes: Vec<i16> = described.iter().map(|one| one.error_code).collect();
    assert_eq!(codes, [0, ErrorCode::TransactionalIdNotFound.code(), ErrorCode::InvalidRequest.code()]);
    let one = &described[0];
    assert_eq!(one.transaction_state.as_str(), "Ongoing");
    assert_eq!((one.producer_id, one.producer_epoch), (ProducerId(FIRST_ID + 2), 0));
    assert_eq!(one.transaction_timeout_ms, TIMEOUT_MS);
    assert_eq!(one.transaction_start_time_ms, harness.now.wall_ms - 5_000);
    assert_eq!((one.topics.len(), one.topics[0].topic.as_str()), (1, "topic"));
    assert_eq!(one.topics[0].partitions, [0, 3]);

    let held = harness.transaction().producer();
    harness.end(held, true, TV2).expect("decided");
    let task = harness.markers[0].clone();
    harness.marked(&task, &[0]);
    let one = describe(&mut harness).remove(0);
    assert_eq!(one.transaction_state.as_str(), "PrepareCommit");
    assert_eq!(one.topics[0].partitions, [3], "those without their marker");
}

#[test]
fn lists_what_passes_every_filter() {
    let mut harness = three();
    let cases: [(ListTransactionsRequest, &[&str]); 10] = [
        (all(), &["pay-1", "pay-2", "tx"]),
        (all().with_state_filters(strings(&["Ongoing"])), &["tx"]),
        (all().with_state_filters(strings(&["Ongoing", "Empty"])), &["pay-1", "pay-2", "tx"]),
        (all().with_state_filters(strings(&["Dead"])), &[]),
        (all().with_producer_id_filters(vec![ProducerId(FIRST_ID)]), &["pay-1"]),
        (all().with_duration_filter(4_999), &["pay-1", "pay-2", "tx"]),
        (all().with_duration_filter(5_000).with_state_filters(strings(&["Ongoing"])), &[]),
        (all().with_transactional_id_pattern(Some(strings(&["pay.*"]).remove(0))), &["pay-1", "pay-2"]),
        (all().with_transactional_id_pattern(Some(strings(&[""]).remove(0))), &["pay-1", "pay-2", "tx"]),
        (
            all()
                .with_transactional_id_pattern(Some(strings(&[".*-2"]).remove(0)))
                .with_producer_id_filters(vec![ProducerId(FIRST_ID)]),
            &[],
        ),
    ];
    for (request, ids) in cases {
        let (listed, unknown, error) = list(&mut harness, request.clone());
        assert_eq!(listed, ids, "{request:?}");
        assert_eq!((unknown.len(), error), (0, 0));
    }
}

#[test]
fn names_filters_that_are_no_state_and_refuses_what_is_no_pattern() {
    let mut harness = three();
    let (listed, unknown, error) = list(&mut harness, all().with_state_filters(strings(&["ongoing", "Empty"])));
    assert_eq!((listed.len(), unknown, error), (2, vec!["ongoing".to_owned()], 0));
    let (listed, unknown, _) = list(&mut harness, all().with_state_filters(strings(&["Gone"])));
    assert_eq!((listed.len(), unknown.len()), (0, 1));
    let (listed, _, error) = list(&mut harness, all().with_transactional_id_pattern(Some(strings(&["("]).remove(0))));
    assert_eq!((listed.len(), error), (0, ErrorCode::InvalidRegularExpression.code()));
}
