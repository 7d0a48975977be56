//! deploy/kafka/acls.md: the rights it lists are enough, and needed.

use std::ffi::CString;
use std::process::Command;
use std::ptr;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka_sys as rdsys;
use rdsys::rd_kafka_AclOperation_t as Right;

use crate::daemon::{Daemon, header, output, reader, rows, said};
use crate::kafka::{self, Broker, Message, eventually};

const READ: [Right; 2] = [Right::RD_KAFKA_ACL_OPERATION_READ, Right::RD_KAFKA_ACL_OPERATION_DESCRIBE];
const WRITE: [Right; 2] = [Right::RD_KAFKA_ACL_OPERATION_WRITE, Right::RD_KAFKA_ACL_OPERATION_DESCRIBE];

/// The Rust client has no call for it, librdkafka has.
fn grant(broker: &Broker, user: &str, topic: &str, operations: [Right; 2]) {
    let client: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create().unwrap();
    let text = |text: String| CString::new(text).unwrap();
    let (topic, principal, host) = (text(topic.into()), text(format!("User:{user}")), text("*".into()));
    let native = client.client().native_ptr();
    // SAFETY: strings and handles outlive the calls that use them; what is made is destroyed, once.
    unsafe {
        let mut bindings = operations.map(|operation| {
            rdsys::rd_kafka_AclBinding_new(
                rdsys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                topic.as_ptr(),
                rdsys::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                principal.as_ptr(),
                host.as_ptr(),
                operation,
                rdsys::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                ptr::null_mut(),
                0,
            )
        });
        assert!(bindings.iter().all(|binding| !binding.is_null()));
        let queue = rdsys::rd_kafka_queue_new(native);
        rdsys::rd_kafka_CreateAcls(native, bindings.as_mut_ptr(), bindings.len(), ptr::null(), queue);
        let event = rdsys::rd_kafka_queue_poll(queue, 30_000);
        assert!(!event.is_null(), "no answer");
        let error = rdsys::rd_kafka_event_error(event);
        assert_eq!(error, rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
        rdsys::rd_kafka_event_destroy(event);
        rdsys::rd_kafka_queue_destroy(queue);
        for binding in bindings {
            rdsys::rd_kafka_AclBinding_destroy(binding);
        }
    }
}

#[test]
fn the_listed_rights_are_enough_and_needed() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("rights");
    broker.create_topic(&topic, 2, &[]);
    broker.produce(&topic, (1..4).map(|id| Message::new(id.to_string(), format!(r#"{{"id":{id}}}"#))));
    let password = dir.path().join("password");
    std::fs::write(&password, kafka::PASSWORD).unwrap();
    let yaml = format!(
        "{}http: {{ listen: '127.0.0.1:0' }}\nadmin: {{ listen: '127.0.0.1:0' }}\n\
         tables: {{ users: {{ topic: {topic}, key: id, columns: {{ id: integer }} }} }}\n",
        header(&broker.sasl_bootstrap(), dir.path()).replace(
            "kafka: { ",
            &format!(
                "kafka: {{ properties: {{ security.protocol: SASL_PLAINTEXT, sasl.mechanism: PLAIN, \
                 sasl.username: '{}' }}, secrets: {{ sasl.password: {} }}, ",
                kafka::STRANGER,
                password.display()
            )
        )
    );
    let config = dir.path().join("readside.yaml");
    std::fs::write(&config, &yaml).unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
        let (code, said) =
            said(&output(command.args(["check", "--timeout", "60s", "--config"]).arg(&config)));
        (Some(code), said)
    };
    let (code, said) = check();
    assert!(code == Some(69) && said.contains(&topic), "{code:?} {said}");
    grant(broker, kafka::STRANGER, &topic, READ);
    eventually("the rights hold", || (check().0 == Some(0)).then_some(()));
    let mut daemon = Daemon::start_with(dir.path(), &config, &[]);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["3"]);
    eventually("it is connected", || (daemon.metric("readside_kafka_connected") == Some(1.0)).then_some(()));
    daemon.terminate();

    // To a dead-letter topic, Write; to read from one topic and write to another is not the same.
    let dead = kafka::topic_name("rights.dead");
    broker.create_topic(&dead, 1, &[]);
    std::fs::write(&config, format!("{yaml}dead_letters: {{ topic: {dead} }}\n")).unwrap();
    let (code, said) = check();
    assert!(code == Some(69) && said.contains(&dead), "{code:?} {said}");
    grant(broker, kafka::STRANGER, &dead, READ);
    eventually("it may be seen and not written to", || {
        check().1.contains("may not be written").then_some(())
    });
    grant(broker, kafka::STRANGER, &dead, WRITE);
    eventually("the rights hold", || (check().0 == Some(0)).then_some(()));
    broker.produce(&topic, [Message::new("k", "broken")]);
    let mut daemon = Daemon::start_with(dir.path(), &config, &[]);
    daemon.started();
    eventually("it is produced", || (broker.end_offset(&dead, 0) >= 1).then_some(()));
}
