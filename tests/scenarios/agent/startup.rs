//! Why the agent does not start: said on standard error, with an exit code that scripts can tell apart.

use std::{
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use lab::{
    agent,
    client::Ask,
    demo::{policies::HOST, setup::Stage},
    load::{Load, Pace, Reuse},
    netns::Namespace,
    pki::Authority,
    privilege::root_or_skip,
    topology::{Lab, Neighbour},
    workspace::Workspace,
};

use crate::{
    hooks::Hooks,
    setting::{EDGE, OPEN, PATIENCE, POLL, Setting, packet_policy},
};

/// A node and the agent's files, without an agent.
struct Scene {
    lab: Lab,
    workspace: Workspace,
}

impl Scene {
    fn create(setting: &Setting) -> Result<Option<Self>> {
        if !root_or_skip() {
            return Ok(None);
        }
        let (lab, workspace) = (Lab::create()?, Workspace::create()?);
        let authority = Authority::create("Lab CA")?;
        authority.write(workspace.path(), "ca")?;
        let node = Neighbour::Client.node_ipv4();
        authority
            .server(&[HOST], &[node])?
            .write(workspace.path(), "server")?;
        let plan = setting.plan();
        workspace.write_config(&plan.config)?;
        for (name, yaml) in &plan.policies {
            workspace.write_policy(name, yaml)?;
        }
        Ok(Some(Self { lab, workspace }))
    }

    /// Runs an agent that should not start. Gives its exit code and what it said.
    fn run(&self, wrapper: &[&str]) -> Result<(Option<i32>, String)> {
        let binary = agent::binary()?;
        let mut command = match wrapper.split_first() {
            None => self.lab.node().command(&binary)?,
            Some((program, arguments)) => {
                let mut command = self.lab.node().command(program)?;
                command.args(arguments).arg(&binary);
                command
            }
        };
        let log = self.workspace.path().join("startup.log");
        command
            .args(["run", "--config", "enforcer.yaml"])
            .current_dir(self.workspace.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?);
        let code = exit_code(command)?;
        // What is left is what a person is told, after the log.
        Ok((code, std::fs::read_to_string(log)?))
    }

    fn node(&self) -> &Namespace {
        self.lab.node()
    }
}

/// Waits for the end of a process that should end by itself.
fn exit_code(mut command: Command) -> Result<Option<i32>> {
    let mut child = command.spawn()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("the agent runs, and should not have started");
        }
        std::thread::sleep(POLL);
    }
}

#[test]
fn bad_policies_are_listed_and_nothing_is_attached() -> Result<()> {
    let setting = Setting {
        edge: packet_policy(
            "edge",
            "interfaces: [to-client]\n  limits: [{rate: 0/s}]\n  mood: grim",
        ),
        ..Setting::default()
    };
    let Some(scene) = Scene::create(&setting)? else {
        return Ok(());
    };
    let (code, said) = scene.run(&[])?;
    ensure!(code == Some(2), "{code:?}\n{said}");
    for place in [":6:19: error: spec.limits[0].rate: ", ":7:3: error: spec.mood: "] {
        ensure!(
            said.contains(&format!("{EDGE}{place}")),
            "`{place}` is not in:\n{said}"
        );
    }
    ensure!(Hooks::of(scene.node(), "to-client")?.is_empty());

    // The configuration itself, too.
    scene
        .workspace
        .write_config("policies: [policies]\nkernel: {xpd: auto}\n")?;
    let (code, said) = scene.run(&[])?;
    ensure!(
        code == Some(2) && said.contains("enforcer.yaml:2:10: error: kernel.xpd: "),
        "{code:?}\n{said}"
    );
    Ok(())
}

#[test]
fn a_taken_port_names_the_listener() -> Result<()> {
    let Some(scene) = Scene::create(&Setting::default())? else {
        return Ok(());
    };
    let taken = scene
        .node()
        .run(|| Ok(TcpListener::bind(SocketAddr::from(([0u16; 8], 8443)))?))?;
    let (code, said) = scene.run(&[])?;
    let expected = "enforcer: listener edge: cannot listen on [::]:8443: Address already in use";
    ensure!(code == Some(1) && said.contains(expected), "{code:?}\n{said}");
    drop(taken);
    let _taken = scene
        .node()
        .run(|| Ok(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 9600)))?))?;
    let (code, said) = scene.run(&[])?;
    let expected = "enforcer: cannot listen on the admin address 127.0.0.1:9600: Address already in use";
    ensure!(code == Some(1) && said.contains(expected), "{code:?}\n{said}");
    ensure!(Hooks::of(scene.node(), "to-client")?.is_empty());
    Ok(())
}

#[test]
fn missing_capabilities_are_named() -> Result<()> {
    let Some(scene) = Scene::create(&Setting::default())? else {
        return Ok(());
    };
    let without = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
    ];
    let (code, said) = scene.run(&without)?;
    ensure!(code == Some(1), "{code:?}\n{said}");
    for name in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
        ensure!(said.contains(name), "{name} is not in:\n{said}");
    }
    Ok(())
}

/// What a policy names may come later: the agent starts, and says so.
#[test]
fn a_missing_interface_does_not_hinder() -> Result<()> {
    let setting = Setting {
        edge: packet_policy("edge", "interfaces: [to-client, eth7]"),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let text = String::from_utf8(stage.agent().command(&["status"])?.stdout)?;
    ensure!(
        text.contains("  to-client  native  tcx  node\n") && text.contains("  eth7: no such interface yet\n"),
        "{text}"
    );
    ensure!(stage.agent().ask(Ask::get("/readyz"))??.status.is_success());
    Ok(())
}

/// Started twice by mistake: the second says so and ends, and the first loses nothing by it, neither
/// connections nor its programs nor its operators' token.
#[test]
fn a_second_agent_on_the_node_does_not_disturb_the_first() -> Result<()> {
    let Some(stage) = Setting::default().stage()? else {
        return Ok(());
    };
    let interface = Neighbour::Client.node_interface();
    let hooks = Hooks::of(stage.lab().node(), interface)?;
    let load = Load {
        connections: 4,
        // Less than the handshakes that one source may begin.
        pace: Pace::PerSecond(NonZeroU32::new(100).expect("100 is not 0")),
        reuse: Reuse::PerRequest,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(3),
    };
    let load = load.run(stage.verified_client()?, Ask::get(OPEN));
    let pending = stage.client_thread().begin(load);
    for _ in 0..3 {
        let said = second_agent(&stage, "enforcer.yaml")?;
        let expected = "enforcer: cannot listen on the admin address 127.0.0.1:9600: Address already in use";
        ensure!(said.contains(expected), "{said}");
    }
    // With an admin address and a folder of its own, too: it would share the first's connections.
    let config = std::fs::read_to_string(stage.workspace().path().join("enforcer.yaml"))?
        .replace(":9600", ":9601")
        .replace("runtimeDir: run", "runtimeDir: second");
    std::fs::write(stage.workspace().path().join("second.yaml"), &config)?;
    let said = second_agent(&stage, "second.yaml")?;
    let expected = "enforcer: listener edge: cannot listen on [::]:8443: Address already in use";
    ensure!(said.contains(expected), "{said}");
    let config = format!("{config}stateDir: run\n");
    std::fs::write(stage.workspace().path().join("second.yaml"), config)?;
    let said = second_agent(&stage, "second.yaml")?;
    ensure!(said.contains("enforcer: run belongs to another agent"), "{said}");
    let report = pending.wait()?;
    ensure!(report.failures.is_empty() && report.succeeded > 50, "{report:?}");
    ensure!(Hooks::of(stage.lab().node(), interface)? == hooks);
    let deny = [
        "deny",
        "192.0.2.1",
        "--for",
        "1m",
        "--reason",
        "x",
        "--runtime-dir",
        "run",
    ];
    let output = stage.agent().command(&deny)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs an agent beside the stage's, which should not start, and gives what it said.
fn second_agent(stage: &Stage, config: &str) -> Result<String> {
    let mut second = stage.lab().node().command(stage.agent().binary())?;
    let log = stage.workspace().path().join("startup.log");
    second
        .args(["run", "--config", config])
        .current_dir(stage.workspace().path())
        .stderr(std::fs::File::create(&log)?);
    let code = exit_code(second)?;
    let said = std::fs::read_to_string(log)?;
    ensure!(code == Some(1), "{code:?}\n{said}");
    Ok(said)
}
