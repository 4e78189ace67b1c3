//! Machines that learn from outside who they are: booted in clouds that the harness
//! emulates, each by the words of an ordinary `[[test]]`.

use crate::support::lab::{boot, is_nightly, slot};
use crate::support::project::Project;
use crate::support::red::{assert_green, tell};
use slipform_init::contract::event::{Event, ServiceState};
use slipform_init::contract::machine::MetadataSource;
use slipform_qemu_tests::{BootReport, Check, Day, Metadata, Probe};

/// What each boot learned of itself.
fn learned(report: &BootReport) -> Vec<(Vec<MetadataSource>, String, Vec<String>, u64)> {
    let events = report.events.iter();
    let learned = events.filter_map(|record| match &record.event {
        Event::Metadata {
            sources,
            instance_id,
            credentials,
            user_data,
            ..
        } => Some((
            sources.clone(),
            instance_id.clone(),
            credentials.clone(),
            *user_data,
        )),
        _ => None,
    });
    learned.collect()
}

#[test]
fn an_image_wakes_up_in_clouds_and_on_a_seed_disk() {
    let _slot = slot();
    let subject = Project::own("identity").cast();
    // The firmware's strings come to Linux the same way; without UEFI each boot is shorter.
    let plan = subject.direct("identity");
    let report = boot(&plan);
    assert_green(&plan, &report);
    assert_eq!(report.boots, 6, "{}", tell(&plan, &report));
    let learned = learned(&report);
    let known: Vec<_> = learned
        .iter()
        .map(|(sources, id, ..)| (sources.as_slice(), id.as_str()))
        .collect();
    let wanted: [(&[MetadataSource], &str); 6] = [
        (&[MetadataSource::Ec2], "i-0ec2"),
        (&[MetadataSource::Ec2], "i-0123456789abcdef0"),
        (&[MetadataSource::Nocloud], "i-seed"),
        (&[MetadataSource::Gce], "4711"),
        (&[MetadataSource::Azure], "02aab8a4-74ef"),
        (&[MetadataSource::Openstack], "83679162-1378"),
    ];
    assert_eq!(known, wanted);
    for (_, _, credentials, user_data) in &learned {
        assert_eq!(credentials, &["db-password"]);
        assert!(*user_data > 0);
    }
    // Who asks for nothing does not wait.
    let place = |name: &str| {
        let started = |event: &Event| matches!(event, Event::Service { name: n, state: ServiceState::Started, .. } if n == name);
        let mut events = report.events.iter();
        events
            .position(|record| started(&record.event))
            .expect(name)
    };
    assert!(place("free") < place("who"));
}

/// The hypervisor's ways carry secrets and no name, so the service asks for none.
#[test]
fn smbios_and_fw_cfg_carry_secrets() {
    let _slot = slot();
    let nameless = ("identity-env = { NODE = \"instance-id\" }\n", "");
    let project = Project::own("identity").variant("identity-hypervisor", &[nameless], &[]);
    let subject = project.cast();
    let mut plan = subject.direct("identity-hypervisor");
    plan.checks = [MetadataSource::Smbios, MetadataSource::FwCfg]
        .into_iter()
        .map(|source| {
            let matches = format!("^known: , by {}, 400 app", source.name());
            let service = "who".to_owned();
            let mut check = Check::new(source.name(), Probe::Log { service, matches });
            let mut metadata = Metadata::of(source);
            let secret = format!("by {}", source.name());
            metadata
                .credentials
                .insert("db-password".to_owned(), secret);
            check.metadata = Some(metadata);
            check
        })
        .collect();
    let report = boot(&plan);
    assert_green(&plan, &report);
}

/// A cloud that fails for good: the machine is up in its time, and the service that needs
/// the secret says why it is not.
#[test]
fn a_cloud_that_is_silent_costs_the_service_that_needs_it_and_no_more() {
    let _slot = slot();
    let quick = (
        "version = \"0.1.0\"\n",
        "version = \"0.1.0\"\n\n[metadata]\ntimeout = \"2s\"\n",
    );
    let project = Project::own("identity").variant("identity-silent", &[quick], &[]);
    let subject = project.cast();
    let mut plan = subject.direct("identity-silent");
    let mut check = plan.checks[0].clone();
    let mut metadata = Metadata::of(MetadataSource::Ec2);
    metadata.day = Day::Silent;
    check.metadata = Some(metadata);
    plan.checks = vec![check];
    let report = boot(&plan);
    assert!(!report.passed);
    let failed = report.events.iter().any(|record| {
        matches!(&record.event, Event::Service { name, state: ServiceState::Failed, detail, .. }
            if name == "who" && detail.contains("`db-password`"))
    });
    assert!(failed, "{}", tell(&plan, &report));
    let free = report.events.iter().any(|record| {
        matches!(&record.event, Event::Service { name, state: ServiceState::Ready, .. } if name == "free")
    });
    assert!(free, "{}", tell(&plan, &report));
}

/// GCE, Azure and OpenStack on every ugly day: what can be learned is, late if need be, what
/// cannot costs no more than its time. A boot for each: nightly.
#[test]
#[allow(clippy::print_stdout)]
fn ugly_days_of_other_clouds_cost_time_and_no_more() {
    use Day::{Busy, Failing, Huge, Late, Malformed, Slow, Unauthorized};
    if !is_nightly() {
        println!("Skipped: it runs with SLIPFORM_TESTS_NIGHTLY=1");
        return;
    }
    let _slot = slot();
    let short = (
        "version = \"0.1.0\"\n",
        "version = \"0.1.0\"\n\n[metadata]\ntimeout = \"1s\"\n",
    );
    let project = Project::shipped("hello").variant("hello-ugly", &[short], &[]);
    let subject = project.cast();
    let mut plan = subject.direct("hello-ugly");
    plan.checks.clear();
    for source in [
        MetadataSource::Gce,
        MetadataSource::Azure,
        MetadataSource::Openstack,
    ] {
        for day in [Slow, Late, Unauthorized, Busy, Failing, Malformed, Huge] {
            let name = source.name();
            let matches = match day {
                Slow | Late | Busy => format!("metadata: from {name} .* emulated.internal"),
                _ => format!("metadata: nothing known .* {name}: "),
            };
            let mut check = Check::new(format!("{name}, {day:?}"), Probe::Console { matches });
            let mut metadata = Metadata::of(source);
            metadata.day = day;
            check.metadata = Some(metadata);
            plan.checks.push(check);
        }
    }
    let report = boot(&plan);
    assert_green(&plan, &report);
    assert_eq!(report.boots, 21, "{}", tell(&plan, &report));
}
