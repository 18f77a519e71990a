use super::{Faults, Op};

#[test]
fn operations_are_told_apart() {
    let cases = [
        ("PUT", "/b/k", "", Op::Put),
        ("PUT", "/b/k", "partNumber=1&uploadId=7", Op::Multipart),
        ("POST", "/b/k", "uploads", Op::Multipart),
        ("POST", "/b/k", "uploadId=7", Op::Multipart),
        ("GET", "/b/k/with/slashes", "", Op::Get),
        ("HEAD", "/b/k", "", Op::Head),
        ("GET", "/b", "list-type=2", Op::List),
        ("GET", "/b/", "list-type=2", Op::List),
        ("DELETE", "/b/k", "", Op::Delete),
        ("POST", "/b/", "delete", Op::Delete),
        ("PUT", "/b", "", Op::Other),
    ];
    for (method, path, query, op) in cases {
        assert_eq!(Op::of(method, path, query), op, "{method} {path}?{query}");
    }
}

#[test]
fn faults_are_written_as_json() {
    let text = r#"{"ops":["put","multipart"],"fail_percent":30}"#;
    let faults: Faults = serde_json::from_str(text).expect("valid");
    assert_eq!(faults.ops, [Op::Put, Op::Multipart]);
    assert_eq!((faults.fail_percent, faults.latency_ms), (30, 0));
    assert!(serde_json::from_str::<Faults>(r#"{"fail_percents":30}"#).is_err(), "a misspelt fault is refused");
}
