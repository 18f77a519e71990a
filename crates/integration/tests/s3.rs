//! The S3 server for tests is judged by the client Ottla uses, and moto, somebody else's S3 server, by the same
//! suite: where both agree, what Ottla relies on is S3 and not our idea of it.
#![allow(clippy::disallowed_methods)] // races need tasks that run in parallel; the tests wait for each

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
};
use ottla_integration::process::moto;
use ottla_integration::s3sim::{Config, Faults, Op, Running, Stats, start};

const KEYS: (&str, &str) = ("test", "test-secret");

fn store(endpoint: &str, secret: &str) -> Arc<AmazonS3> {
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name("ottla")
        .with_access_key_id(KEYS.0)
        .with_secret_access_key(secret)
        .with_retry(retry);
    Arc::new(builder.build().expect("valid configuration"))
}

async fn s3sim() -> (Running, Arc<AmazonS3>) {
    let config = Config {
        port: 0,
        admin_port: 0,
        keys: (KEYS.0.to_owned(), KEYS.1.to_owned()),
        buckets: vec!["ottla".to_owned()],
        seed: 1,
    };
    let running = start(&config).await.expect("loopback ports");
    let store = store(&format!("http://{}", running.s3), KEYS.1);
    (running, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn s3sim_conforms() {
    let (_running, store) = s3sim().await;
    conform(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms() {
    let server = moto::start("ottla").expect("moto starts");
    conform(&store(&server.endpoint, KEYS.1)).await;
}

async fn conform(store: &Arc<AmazonS3>) {
    objects_and_ranges(store).await;
    listings(store).await;
    multipart(store).await;
    deletes(store).await;
    create_race(store).await;
    compare_and_swap(store).await;
}

async fn objects_and_ranges(store: &AmazonS3) {
    let path = Path::from("a/object");
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
    store.put(&path, PutPayload::from(bytes.clone())).await.expect("put");
    assert_eq!(store.head(&path).await.expect("head").size, 100_000);
    assert_eq!(store.get(&path).await.expect("get").bytes().await.expect("body"), bytes);
    assert_eq!(store.get_range(&path, 10..20).await.expect("range"), bytes[10..20]);
    let tail = GetOptions { range: Some(object_store::GetRange::Suffix(7)), ..GetOptions::default() };
    assert_eq!(store.get_opts(&path, tail).await.expect("tail").bytes().await.expect("body"), bytes[99_993..]);
    let rest = GetOptions { range: Some(object_store::GetRange::Offset(99_990)), ..GetOptions::default() };
    assert_eq!(store.get_opts(&path, rest).await.expect("rest").bytes().await.expect("body"), bytes[99_990..]);
    assert!(store.get_range(&path, 200_000..200_010).await.is_err(), "a range beyond the end");
    store.put(&path, PutPayload::new()).await.expect("put nothing");
    assert!(store.get(&path).await.expect("get").bytes().await.expect("body").is_empty());
    store.delete(&path).await.expect("delete");
}

async fn listings(store: &AmazonS3) {
    let puts = (0..1_100).map(|n| async move {
        store.put(&Path::from(format!("list/{:02}/{n:04}", n / 100)), "x".into()).await.expect("put")
    });
    futures::stream::iter(puts).buffer_unordered(16).for_each(|_| async {}).await;
    let all: Vec<_> = store.list(Some(&Path::from("list"))).try_collect().await.expect("list");
    assert_eq!(all.len(), 1_100, "more than one page");
    assert!(all.windows(2).all(|two| two[0].location < two[1].location), "in order");
    let offset = Path::from("list/10/1049");
    let late: Vec<_> = store.list_with_offset(Some(&Path::from("list")), &offset).try_collect().await.expect("list");
    assert_eq!(late.len(), 50);
    let folders = store.list_with_delimiter(Some(&Path::from("list"))).await.expect("list");
    assert_eq!((folders.common_prefixes.len(), folders.objects.len()), (11, 0));
    let one = store.list_with_delimiter(Some(&Path::from("list/03"))).await.expect("list");
    assert_eq!((one.common_prefixes.len(), one.objects.len()), (0, 100));
}

async fn multipart(store: &AmazonS3) {
    let path = Path::from("multipart");
    let mut upload = store.put_multipart(&path).await.expect("create");
    for fill in [1_u8, 2] {
        upload.put_part(vec![fill; 5 << 20].into()).await.expect("part");
    }
    upload.put_part(vec![3; 10].into()).await.expect("part");
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })), "nothing before it is complete");
    upload.complete().await.expect("complete");
    let bytes = store.get(&path).await.expect("get").bytes().await.expect("body");
    assert_eq!(bytes.len(), (10 << 20) + 10);
    assert_eq!((bytes[0], bytes[5 << 20], bytes[10 << 20]), (1, 2, 3));
    let mut aborted = store.put_multipart(&path).await.expect("create");
    aborted.put_part("x".into()).await.expect("part");
    aborted.abort().await.expect("abort");
    assert_eq!(store.head(&path).await.expect("head").size, bytes.len() as u64);
}

async fn deletes(store: &AmazonS3) {
    let listed = store.list(Some(&Path::from("list"))).map_ok(|meta| meta.location).boxed();
    let deleted: Vec<Path> = store.delete_stream(listed).try_collect().await.expect("bulk delete");
    assert_eq!(deleted.len(), 1_100);
    let left: Vec<_> = store.list(Some(&Path::from("list"))).try_collect().await.expect("list");
    assert!(left.is_empty());
    store.delete(&Path::from("never/existed")).await.expect("S3 deletes what is not there");
}

async fn create_race(store: &Arc<AmazonS3>) {
    for race in 0..10 {
        let path = Path::from(format!("race/{race}"));
        let writers = (0..8_u8).map(|writer| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move {
                let create = PutOptions::from(PutMode::Create);
                store.put_opts(&path, vec![writer; 1000].into(), create).await.map(|_| writer)
            })
        });
        let mut winners = Vec::new();
        for outcome in futures::future::join_all(writers).await {
            match outcome.expect("no panic") {
                Ok(writer) => winners.push(writer),
                Err(Error::AlreadyExists { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners.len(), 1, "race {race}: {winners:?}");
        let bytes = store.get(&path).await.expect("get").bytes().await.expect("body");
        assert_eq!(bytes, vec![winners[0]; 1000], "the winner's bytes are there");
    }
}

async fn compare_and_swap(store: &Arc<AmazonS3>) {
    let path = Path::from("counter");
    store.put(&path, "0".into()).await.expect("put");
    let writers = (0..4).map(|_| {
        let (store, path) = (store.clone(), path.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < 5 {
                let found = store.get(&path).await.expect("get");
                let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                let text = String::from_utf8(found.bytes().await.expect("body").to_vec()).expect("digits");
                let next = (text.parse::<u64>().expect("digits") + 1).to_string();
                match store.put_opts(&path, next.into(), PutOptions::from(PutMode::Update(version))).await {
                    Ok(_) => done += 1,
                    Err(Error::Precondition { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    for outcome in futures::future::join_all(writers).await {
        outcome.expect("no panic");
    }
    assert_eq!(store.get(&path).await.expect("get").bytes().await.expect("body"), "20");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_checked() {
    let (running, _) = s3sim().await;
    let store = store(&format!("http://{}", running.s3), "another-secret");
    assert!(store.put(&Path::from("x"), "x".into()).await.is_err());
    assert!(store.get(&Path::from("x")).await.is_err());
}

async fn set_faults(running: &Running, faults: &Faults) {
    let address = running.admin.to_string();
    let body = serde_json::to_string(faults).expect("serializable");
    let answer = tokio::task::spawn_blocking(move || ottla_integration::http::put(&address, "/faults", &body))
        .await
        .expect("no panic")
        .expect("admin answers");
    assert_eq!(answer.status, 204, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_do_what_they_say() {
    let (running, store) = s3sim().await;
    let (before, after, cut) = (Path::from("before"), Path::from("after"), Path::from("cut"));
    let puts = || Faults { ops: vec![Op::Put], ..Faults::default() };

    set_faults(&running, &Faults { fail_percent: 100, ..puts() }).await;
    assert!(store.put(&before, "x".into()).await.is_err());
    assert!(matches!(store.get(&before).await, Err(Error::NotFound { .. })), "refused: not carried out");

    set_faults(&running, &Faults { fail_after_percent: 100, ..puts() }).await;
    assert!(store.put(&after, "x".into()).await.is_err());
    assert_eq!(store.head(&after).await.expect("carried out all the same").size, 1);

    set_faults(&running, &Faults { cut_after_percent: 100, ..puts() }).await;
    assert!(store.put(&cut, "x".into()).await.is_err());
    assert_eq!(store.head(&cut).await.expect("carried out all the same").size, 1);

    set_faults(&running, &Faults { fail_percent: 30, ..Faults::default() }).await;
    let mut failed = 0;
    for _ in 0..300 {
        failed += u32::from(store.head(&cut).await.is_err());
    }
    assert!((50..130).contains(&failed), "{failed} of 300 failed at 30 percent");

    set_faults(&running, &Faults { unreachable_ms: 600, ..Faults::default() }).await;
    assert!(store.head(&cut).await.is_err());
    tokio::time::sleep(Duration::from_millis(700)).await;
    store.head(&cut).await.expect("reachable again");

    let answer = ottla_integration::http::get(&running.admin.to_string(), "/stats").expect("admin answers");
    let stats: Stats = serde_json::from_str(&answer.body).expect("stats");
    assert_eq!((stats.requests["put"], stats.objects, stats.bytes), (3, 2, 2));
    assert!(stats.injected >= 3 + u64::from(failed), "{stats:?}");
}
