//! The deployment files are what the machines that read them accept, and agree with each other.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The oldest version of Kubernetes that knows every field that we use, and the newest with a schema.
const KUBERNETES: [&str; 2] = ["1.30.0", "1.37.0"];

/// What the service may do at most: the four capabilities that the architecture names.
const CAPABILITIES: [&str; 4] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_PERFMON"];

/// systemd's measure of what a service could do if it were taken over, times ten: 20 is the upper end
/// of what it calls OK for a service on the machine's own network.
const EXPOSURE: &str = "20";

const UNIT: &str = "deploy/systemd/enforcer.service";
const AGENT_IN_UNIT: &str = "/usr/local/bin/enforcer";

#[test]
fn kubernetes_accepts_the_manifests() -> Result<()> {
    let files = manifests()?;
    for version in KUBERNETES {
        for file in &files {
            let answer = kubernetes_validate(version, file)?;
            ensure!(answer.status.success(), "Kubernetes {version}: {}", text(&answer));
        }
    }
    Ok(())
}

#[test]
fn the_schemas_reject_a_field_that_is_not_there() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("daemonset.yaml");
    let manifest = read("deploy/kubernetes/daemonset.yaml")?;
    let mistaken = manifest.replace("readOnlyRootFilesystem:", "readOnlyRootFileSystem:");
    ensure!(manifest != mistaken, "the manifest has no field to misspell");
    fs::write(&file, mistaken)?;
    let answer = kubernetes_validate(KUBERNETES[0], &file)?;
    ensure!(!answer.status.success(), "a misspelt field was accepted");
    Ok(())
}

#[test]
fn the_kustomization_lists_every_manifest() -> Result<()> {
    let documents = documents("deploy/kubernetes/kustomization.yaml")?;
    let listed: BTreeSet<_> = strings(&documents[0]["resources"]).collect();
    let mut present = BTreeSet::new();
    for file in manifests()? {
        let name = file.file_name().context("a manifest without a name")?;
        present.insert(name.to_string_lossy().into_owned());
    }
    ensure!(listed == present, "listed {listed:?}, present {present:?}");
    Ok(())
}

#[test]
fn unit_and_daemonset_grant_the_same_four_capabilities() -> Result<()> {
    let expected: BTreeSet<_> = CAPABILITIES.map(str::to_owned).into();
    let unit = read(UNIT)?;
    for setting in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let granted: BTreeSet<_> = settings(&unit, setting)
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect();
        ensure!(granted == expected, "{UNIT}: {setting} is {granted:?}");
    }
    let container = container()?;
    let security = &container["securityContext"];
    let added: BTreeSet<_> = strings(&security["capabilities"]["add"])
        .map(|name| format!("CAP_{name}"))
        .collect();
    ensure!(added == expected, "the DaemonSet adds {added:?}");
    let dropped: Vec<_> = strings(&security["capabilities"]["drop"]).collect();
    ensure!(dropped == ["ALL"], "the DaemonSet drops {dropped:?}");
    for (field, wanted) in [
        ("privileged", false),
        ("allowPrivilegeEscalation", false),
        ("readOnlyRootFilesystem", true),
    ] {
        ensure!(security[field] == wanted, "{field} is {}", security[field]);
    }
    Ok(())
}

#[test]
fn probes_ask_where_the_configuration_answers() -> Result<()> {
    let configuration = configuration()?;
    let admin = configuration["admin"]["address"]
        .as_str()
        .context("the configuration has no admin address")?;
    let container = container()?;
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        let get = &container[probe]["httpGet"];
        let asked = format!("{}:{}", get["host"].as_str().unwrap_or_default(), get["port"]);
        ensure!(
            asked == admin,
            "{probe} asks {asked}, the configuration has {admin}"
        );
        ensure!(get["path"] == path, "{probe} asks for {}", get["path"]);
    }
    let listener = configuration["gateway"]["listeners"][0]["address"].as_str();
    let port = container["ports"][0]["hostPort"].to_string();
    ensure!(
        listener.is_some_and(|address| address.ends_with(&format!(":{port}"))),
        "the DaemonSet publishes port {port}, the configuration listens on {listener:?}"
    );
    Ok(())
}

#[test]
fn a_stop_outlasts_the_drain() -> Result<()> {
    let pod = &pod()?;
    let grace = pod["terminationGracePeriodSeconds"]
        .as_u64()
        .context("no terminationGracePeriodSeconds")?;
    let drain = seconds(&configuration()?["gateway"]["drain"])?;
    ensure!(
        grace > drain,
        "Kubernetes waits {grace} s, the drain takes {drain} s"
    );

    let unit = read(UNIT)?;
    let timeout = settings(&unit, "TimeoutStopSec").next().unwrap_or_default();
    let timeout = seconds(&Value::from(timeout))?;
    let drain = seconds(&documents("deploy/systemd/enforcer.yaml")?[0]["gateway"]["drain"])?;
    ensure!(
        timeout > drain,
        "systemd waits {timeout} s, the drain takes {drain} s"
    );
    Ok(())
}

/// A part that hangs is named after ten seconds; whoever supervises the agent then acts within ten more.
#[test]
fn f1_a_part_that_hangs_has_the_agent_restarted_soon() -> Result<()> {
    let unit = read(UNIT)?;
    let setting = |name| settings(&unit, name).next().unwrap_or_default().to_owned();
    ensure!(setting("Type") == "notify" && setting("NotifyAccess") == "main");
    ensure!(
        setting("Restart") == "on-failure",
        "a watchdog's end is a failure"
    );
    let watchdog = seconds(&Value::from(setting("WatchdogSec")))?;
    ensure!(
        (5..=20).contains(&watchdog),
        "the watchdog waits {watchdog} s for an agent that says nothing"
    );
    let probe = &container()?["livenessProbe"];
    let number = |name| probe[name].as_u64().unwrap_or_default();
    let acts = number("periodSeconds") * number("failureThreshold");
    ensure!((1..=10).contains(&acts), "the kubelet acts after {acts} s");
    ensure!(number("timeoutSeconds") <= number("periodSeconds"));
    ensure!(
        number("failureThreshold") > 1,
        "one slow answer must not restart it"
    );
    ensure!((1..=15).contains(&number("terminationGracePeriodSeconds")));
    Ok(())
}

#[test]
fn the_agent_accepts_the_node_configuration() -> Result<()> {
    let folder = node(&read("deploy/systemd/enforcer.yaml")?, &ready_policies()?)?;
    let answer = check(&[folder.path().join("enforcer.yaml")])?;
    ensure!(answer.status.success(), "{}", text(&answer));
    Ok(())
}

#[test]
fn the_agent_accepts_the_cluster_configuration_and_policies() -> Result<()> {
    let folder = node(&config_map("enforcer")?[0].1, &config_map("enforcer-policies")?)?;
    let answer = check(&[
        folder.path().join("enforcer.yaml"),
        folder.path().join("policies"),
    ])?;
    ensure!(answer.status.success(), "{}", text(&answer));
    Ok(())
}

#[test]
fn the_agent_rejects_a_field_that_is_not_there() -> Result<()> {
    let mistaken = config_map("enforcer")?[0].1.replace("maxFlows", "maxflows");
    let folder = node(&mistaken, &[])?;
    let answer = check(&[folder.path().join("enforcer.yaml")])?;
    ensure!(answer.status.code() == Some(2), "{}", text(&answer));
    ensure!(text(&answer).contains("maxflows"), "{}", text(&answer));
    Ok(())
}

#[test]
fn systemd_accepts_the_unit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("enforcer.service");
    // The agent is not installed here: the unit is checked with the one that was built.
    let unit = read(UNIT)?.replace(AGENT_IN_UNIT, &agent()?.display().to_string());
    fs::write(&file, unit)?;
    let answer = run(Command::new("systemd-analyze").arg("verify").arg(&file))?;
    // A setting that systemd does not know is only a warning to it.
    ensure!(
        answer.status.success() && answer.stderr.is_empty(),
        "{}",
        text(&answer)
    );
    Ok(())
}

#[test]
fn the_unit_exposes_little() -> Result<()> {
    let answer = run(Command::new("systemd-analyze")
        .args([
            "security",
            "--no-pager",
            "--offline=true",
            "--threshold",
            EXPOSURE,
        ])
        .arg(root().join(UNIT)))?;
    ensure!(answer.status.success(), "{}", text(&answer));
    Ok(())
}

#[test]
fn the_container_recipe_is_sound() -> Result<()> {
    let file = "deploy/container/Containerfile";
    let answer = run(Command::new(tool("hadolint")?).arg(root().join(file)))?;
    ensure!(answer.status.success(), "{}", text(&answer));
    let recipe = read(file)?;
    let ignored = read(".containerignore")?;
    for source in recipe
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|copied| !copied.starts_with("--from="))
        .flat_map(sources)
    {
        ensure!(root().join(source).exists(), "{file} copies {source}: not there");
        ensure!(
            !ignored.lines().any(|line| line == source),
            "{file} copies {source}: ignored"
        );
    }
    Ok(())
}

#[test]
fn the_container_starts_the_agent_as_the_daemonset_does() -> Result<()> {
    let recipe = read("deploy/container/Containerfile")?;
    ensure!(
        recipe.contains(&format!("ENTRYPOINT [\"{AGENT_IN_UNIT}\"]")),
        "the image starts something else than {AGENT_IN_UNIT}"
    );
    let container = container()?;
    let arguments: Vec<_> = strings(&container["args"]).collect();
    ensure!(arguments[..2] == ["run", "--config"], "{arguments:?}");
    let mounts = container["volumeMounts"].as_array().context("no volumeMounts")?;
    let mounted = |path: &str| mounts.iter().any(|mount| mount["mountPath"] == path);
    let folder = Path::new(&arguments[2]).parent().context("no folder")?;
    ensure!(
        mounted(&folder.display().to_string()),
        "{arguments:?}: not mounted"
    );
    let configuration = configuration()?;
    let mut paths: Vec<_> = strings(&configuration["policies"]).collect();
    paths.extend(configuration["runtimeDir"].as_str().map(str::to_owned));
    paths.extend(configuration["kernel"]["pins"].as_str().map(str::to_owned));
    for path in paths {
        ensure!(mounted(&path), "{path} is not mounted");
    }
    Ok(())
}

#[test]
fn l10_the_daemonset_sees_no_pins_but_its_own() -> Result<()> {
    let configuration = configuration()?;
    let pins = configuration["kernel"]["pins"]
        .as_str()
        .context("no kernel.pins")?;
    let container = container()?;
    let mounts = container["volumeMounts"].as_array().context("no volumeMounts")?;
    let of_bpffs: Vec<_> = mounts
        .iter()
        .filter_map(|mount| mount["mountPath"].as_str())
        .filter(|path| path.starts_with("/sys"))
        .collect();
    ensure!(
        of_bpffs == [pins],
        "{of_bpffs:?} are mounted, and the pins are in {pins}"
    );
    Ok(())
}

#[test]
fn l11_the_image_is_made_of_images_by_digest_and_the_unit_leaves_no_dump() -> Result<()> {
    let recipe = read("deploy/container/Containerfile")?;
    let images: Vec<_> = recipe
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .collect();
    ensure!(images.len() == 2, "{images:?}");
    for image in images {
        let digest = image
            .split_whitespace()
            .next()
            .and_then(|image| image.split_once('@'));
        let argument = digest
            .and_then(|(_, digest)| digest.strip_prefix("${")?.strip_suffix('}'))
            .with_context(|| format!("{image} is taken by a tag"))?;
        ensure!(
            recipe.lines().any(|line| line == format!("ARG {argument}")),
            "{argument} is no argument of the build, or has a default"
        );
    }
    let unit = read(UNIT)?;
    ensure!(
        unit.lines().any(|line| line == "LimitCORE=0"),
        "{UNIT} may leave a dump"
    );
    Ok(())
}

/// What a `COPY` line copies: all but its last word.
fn sources(copied: &str) -> Vec<&str> {
    let mut words: Vec<_> = copied.split_whitespace().collect();
    words.pop();
    words
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(root().join(file)).with_context(|| format!("{file} cannot be read"))
}

/// The documents of a YAML file of the repository.
fn documents(file: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(&read(file)?).with_context(|| format!("{file} is not YAML"))
}

/// The manifests that Kubernetes reads; kustomize reads its own file.
fn manifests() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join("deploy/kubernetes"))? {
        let file = entry?.path();
        if !file.ends_with("kustomization.yaml") {
            files.push(file);
        }
    }
    ensure!(files.len() > 3, "deploy/kubernetes has only {files:?}");
    Ok(files)
}

fn pod() -> Result<Value> {
    Ok(documents("deploy/kubernetes/daemonset.yaml")?[0]["spec"]["template"]["spec"].clone())
}

fn container() -> Result<Value> {
    Ok(pod()?["containers"][0].clone())
}

/// The files that a ConfigMap holds, by name.
fn config_map(name: &str) -> Result<Vec<(String, String)>> {
    let documents = documents("deploy/kubernetes/configmap.yaml")?;
    let map = documents.iter().find(|map| map["metadata"]["name"] == name);
    let data = map.and_then(|map| map["data"].as_object());
    let data = data.with_context(|| format!("there is no ConfigMap {name}"))?;
    let file = |(name, content): (&String, &Value)| {
        let content = content.as_str().context("a value is not text")?;
        Ok((name.clone(), content.to_owned()))
    };
    data.iter().map(file).collect()
}

/// The policies that the repository brings along, as an operator would copy them to a node.
fn ready_policies() -> Result<Vec<(String, String)>> {
    let mut policies = Vec::new();
    for entry in fs::read_dir(root().join("policies")).context("there is no folder `policies`")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        policies.push((name, fs::read_to_string(entry.path())?));
    }
    Ok(policies)
}

fn configuration() -> Result<Value> {
    serde_saphyr::from_str(&config_map("enforcer")?[0].1).context("the configuration is not YAML")
}

/// The values of a setting in a unit file.
fn settings<'a>(unit: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines()
        .filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
}

fn strings(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
}

/// A duration such as `30s`.
fn seconds(duration: &Value) -> Result<u64> {
    let number = duration.as_str().and_then(|text| text.strip_suffix('s'));
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{duration} is not in seconds"))
}

/// A folder with a configuration, its policies and keys, as a node has them in /etc/enforcer.
fn node(configuration: &str, policies: &[(String, String)]) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().display().to_string();
    fs::write(
        folder.path().join("enforcer.yaml"),
        configuration.replace("/etc/enforcer", &place),
    )?;
    fs::create_dir(folder.path().join("policies"))?;
    for (name, content) in policies {
        fs::write(folder.path().join("policies").join(name), content)?;
    }
    let tls = folder.path().join("tls");
    fs::create_dir(&tls)?;
    let pair = rcgen::generate_simple_self_signed(["node.example.com".to_owned()])?;
    fs::write(tls.join("tls.crt"), pair.cert.pem())?;
    fs::write(tls.join("ca.crt"), pair.cert.pem())?;
    fs::write(tls.join("tls.key"), pair.signing_key.serialize_pem())?;
    Ok(folder)
}

/// The agent under test.
fn agent() -> Result<PathBuf> {
    let agent =
        env::var_os("ENFORCER_BIN").map_or_else(|| root().join("target/debug/enforcer"), PathBuf::from);
    agent.canonicalize().with_context(|| {
        format!(
            "{} is not there: run `cargo xtask test --only scenarios`",
            agent.display()
        )
    })
}

fn check(paths: &[PathBuf]) -> Result<Output> {
    run(Command::new(agent()?).arg("check").args(paths))
}

fn kubernetes_validate(version: &str, file: &Path) -> Result<Output> {
    run(Command::new(tool("kubernetes-validate")?)
        .args(["--strict", "--kubernetes-version", version])
        .arg(file))
}

/// A program that set-up put into target/tools.
fn tool(name: &str) -> Result<PathBuf> {
    let program = root().join("target/tools/bin").join(name);
    if !program.exists() {
        bail!("{name} is missing: run `cargo xtask setup`");
    }
    Ok(program)
}

fn run(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("{command:?} could not be started: run `cargo xtask setup`"))
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}: {}{}", output.status, out.trim(), err.trim())
}
