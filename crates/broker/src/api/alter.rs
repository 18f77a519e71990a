//! What AlterConfigs and IncrementalAlterConfigs share: every resource is judged by itself, and those that pass are
//! changed, some at the same time.

use std::sync::Arc;

use futures::StreamExt;
use kafka_protocol::protocol::StrBytes;
use metadata::{Command, MetadataImage};
use protocol::ErrorCode;

use crate::Broker;
use crate::config::alter::{
    AlterPlan, Alteration, BROKER_LOGGER_RESOURCE, Operation, REPEATED, plan, plan_replacement, repeated, resolve,
};
use crate::loggers;
use crate::topics::{ChangeError, Deadline, submit};

/// Resources of one request that are being changed at the same time.
const CHANGES_AT_ONCE: usize = 64;
/// How long a request waits for its changes: the protocol does not say.
const WAIT_MS: i32 = 30_000;

/// One resource of a request.
pub(super) struct Asked {
    /// Its kind.
    pub(super) kind: i8,
    /// Its name.
    pub(super) name: StrBytes,
    /// What is to be done.
    pub(super) wish: Wish,
}

/// What is to be done to a resource.
pub(super) enum Wish {
    /// Let it have these values and no others.
    Replace(Vec<(StrBytes, Option<StrBytes>)>),
    /// Change these keys, each by an operation of that number.
    Change(Vec<(StrBytes, i8, Option<StrBytes>)>),
}

/// What became of one resource.
pub(super) struct Altered {
    /// Its kind.
    pub(super) kind: i8,
    /// Its name.
    pub(super) name: StrBytes,
    /// Error code, or 0.
    pub(super) code: i16,
    /// Null on success, as in Kafka.
    pub(super) message: Option<StrBytes>,
}

/// A change that passed every check.
enum Judged {
    Metadata(AlterPlan),
    Loggers(loggers::Levels),
}

/// Judges and changes; answers in the order of the request.
pub(super) async fn alter(broker: Arc<Broker>, asked: Vec<Asked>, validate_only: bool) -> Vec<Altered> {
    let image = broker.metadata.image();
    let repeated = repeated(asked.iter().map(|one| (one.kind, one.name.clone())));
    let judged = asked.into_iter().map(|one| {
        let judged = match repeated.contains(&(one.kind, one.name.clone())) {
            false => judge(&broker, &image, &one),
            true => Err(ChangeError::new(ErrorCode::InvalidRequest, REPEATED)),
        };
        (one.kind, one.name, judged)
    });
    let judged: Vec<_> = judged.collect();
    let finish = async |(kind, name, judged): (i8, StrBytes, Result<Judged, ChangeError>)| {
        let (code, message) = match apply(&broker, judged, validate_only).await {
            Ok(()) => (0, None),
            Err(error) => (error.code.code(), Some(StrBytes::from_string(error.message))),
        };
        Altered { kind, name, code, message }
    };
    futures::stream::iter(judged).map(finish).buffered(CHANGES_AT_ONCE).collect().await
}

fn judge(broker: &Broker, image: &MetadataImage, asked: &Asked) -> Result<Judged, ChangeError> {
    let config = &broker.config;
    let changes = match &asked.wish {
        Wish::Replace(entries) => {
            let entries: Vec<_> = entries.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
            let found = resolve(image, config, asked.kind, &asked.name)?;
            return plan_replacement(image, config, found, &entries).map(Judged::Metadata);
        }
        Wish::Change(changes) => changes,
    };
    let mut alterations = Vec::with_capacity(changes.len());
    for (name, code, value) in changes {
        let operation = Operation::from_code(*code)
            .ok_or_else(|| ChangeError::new(ErrorCode::InvalidRequest, format!("Unknown operation type {code}")))?;
        alterations.push(Alteration { name, operation, value: value.as_deref() });
    }
    if asked.kind == BROKER_LOGGER_RESOURCE {
        return loggers::plan(broker, &asked.name, &alterations).map(Judged::Loggers);
    }
    let found = resolve(image, config, asked.kind, &asked.name)?;
    plan(image, config, found, &alterations).map(Judged::Metadata)
}

/// Does what was found sound, unless it is only to be judged or changes nothing.
async fn apply(broker: &Broker, judged: Result<Judged, ChangeError>, validate_only: bool) -> Result<(), ChangeError> {
    let plan = match judged? {
        _ if validate_only => return Ok(()),
        Judged::Loggers(levels) => return loggers::set(broker, &levels),
        Judged::Metadata(plan) if plan.changes.is_empty() => return Ok(()),
        Judged::Metadata(plan) => plan,
    };
    let command = Command::AlterConfigs { resource: plan.resource, changes: plan.changes };
    submit(broker, Deadline::after_ms(broker, WAIT_MS), command).await.map(|_| ())
}
