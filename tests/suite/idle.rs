//! Idle: half the CPU time, seen in every listing, and given back at once.

use crate::common;

use common::{Sandbox, lab, text, virsh};
use cyyber::instance::Instance;
use serde_json::json;

/// The quota of the running domain, as libvirt has it; anything but a number of microseconds is
/// none.
fn quota(domain: &str) -> Option<u64> {
    let all = virsh(["schedinfo", "--live", "--", domain]);
    let mut lines = all.lines();
    let line = lines.find(|line| line.starts_with("vcpu_quota"))?;
    let quota = line.split(':').nth(1)?.trim().parse().ok()?;
    (1..1 << 32).contains(&quota).then_some(quota)
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_idle_guest_gets_half_and_is_let_go_again() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let name = sandbox.instance_name("7");
    for verb in ["touch", "start", "resume"] {
        sandbox.instance("start", "7", &[]).ok();
        sandbox.make_idle("7");
        assert_eq!(quota(&name), Some(50_000));
        let listed = sandbox.listed("7");
        assert_eq!(listed["state"], "idle");
        assert!(
            text(&listed["reason"]).contains("limited to half"),
            "{listed}"
        );

        if verb == "resume" {
            sandbox.instance("pause", "7", &[]).ok();
        }
        let back = sandbox.instance(verb, "7", &[]).json();
        assert_eq!(back["state"], "starting", "{back:#}");
        assert_eq!(back["changed"], true, "{back:#}");
        assert_eq!(quota(&name), None, "{verb}");
    }
    // The stored definition knows nothing of it.
    sandbox.make_idle("7");
    let stored = virsh(["dumpxml", "--inactive", "--", &name]);
    assert!(!stored.contains("<quota>50000"), "{stored}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn half_is_half_of_what_the_lab_allows_down_to_what_libvirt_takes() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let name = sandbox.instance_name("7");
    for (percent, allowed, idle) in [(40, 40_000, 20_000), (1, 1000, 1000)] {
        sandbox.configure(&json!({"limits": {"cpu_percent": percent}}));
        sandbox.instance("start", "7", &[]).ok();
        assert_eq!(quota(&name), Some(allowed));
        sandbox.make_idle("7");
        assert_eq!(quota(&name), Some(idle));
        let listed = sandbox.listed("7");
        assert_eq!(listed["state"], "idle", "{listed}");
        assert!(
            text(&listed["reason"]).contains("limited to half"),
            "{listed}"
        );
        sandbox.instance("touch", "7", &[]).ok();
        assert_eq!(quota(&name), Some(allowed));
        sandbox.instance("stop", "7", &["--force"]).ok();
    }
}

#[test]
fn where_nothing_can_be_limited_it_is_idle_all_the_same() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("node.xml");
    let domain = "<node><domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
         <name>lab01_user_7</name><uuid>63797962-6572-8000-8000-000000000001</uuid>
         <metadata><c:instance xmlns:c='https://cyyber.lab/instance/1' lab='lab01' user='7' build='1'
             created='2026-11-23T10:00:00Z'/></metadata>
         <memory unit='MiB'>128</memory><os><type>hvm</type></os>
         <test:runstate>1</test:runstate></domain></node>";
    std::fs::write(&file, domain).unwrap();
    let host = json!({"storage_dir": sandbox.path("storage"), "state_dir": sandbox.path("state")});
    let config = json!({"host": host, "labs": [lab("lab01", &json!({}))]});
    sandbox.write_config(&config.to_string());
    let uri = format!("test://{}", file.display());
    let context = sandbox.context(&uri);
    let name = "lab01_user_7".parse().unwrap();
    Instance::lock(&context, &name).unwrap().throttle().unwrap();
    let all = sandbox
        .cyyber(["-o", "json", "-c", &uri, "instance", "list"])
        .json();
    let listed = &all["instances"][0];
    assert_eq!(listed["state"], "idle");
    assert!(text(&listed["reason"]).contains("cannot limit"), "{listed}");
}
