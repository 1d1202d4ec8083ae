//! What configurations mean, and the line that each mistake in one gets.
use super::*;

const BRIDGE: &str = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("n.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn a_bridge_is_all_that_must_be_said() {
    let config = parse(BRIDGE).unwrap();
    assert_eq!(config.daemon, Daemon::default());
    assert_eq!(config.vif.backlog_bytes, 524_288);
    assert_eq!(config.vif.backlog_ms, 10_000);
    assert!(config.worker_count() >= 1 && config.max_queues() >= 1);
    assert_eq!(config.bridges[0].uplink.as_deref(), Some("eth0"));
}

#[test]
fn without_a_bridge_there_is_memory_for_the_first_uplink_of_a_reload() {
    for nothing in ["", "bridge = []\n", "[workers]\n"] {
        let config = parse(nothing).unwrap();
        assert_eq!(config.bridges, []);
        assert_eq!(
            config.frames_needed(),
            parse(BRIDGE).unwrap().frames_needed()
        );
    }
}

#[test]
fn every_field_is_taken() {
    let text = format!(
        "[daemon]\nrun_dir = \"/tmp/r\"\ncontrol_socket = \"/tmp/c\"\nbpf_dir = \"/tmp/b\"\n[workers]\ncount = 3\npin = false\npoll_us = 7\n\
         [vif]\nmax_queues = 2\nbacklog_bytes = 65_536\nbacklog_ms = 0x5\nstall_ms = 0\nrate_in = \"10Mb/s\"\nmac_lock = true\nisolated = true\nip = \"10.0.0.0/8 fd00::7\"\n[umem]\nframes = 2048\n{BRIDGE}xdp = \"generic\"\nbulk = \"off\"\nvlan = 4094\nhost = true\n[[bridge]]\nname = \"inner\"\n"
    );
    let config = parse(&text).unwrap();
    let workers = Workers {
        count: Some(3),
        pin: false,
        poll_us: 7,
    };
    assert_eq!(config.workers, workers);
    let vif = Vif {
        max_queues: Some(2),
        backlog_bytes: 65_536,
        backlog_ms: 5,
        stall_ms: 0,
        rate_in: Bandwidth::from_text("10Mb/s"),
        mac_lock: true,
        isolated: true,
        ip: Some("10.0.0.0/8 fd00::7".parse().unwrap()),
    };
    assert_eq!(config.vif, vif);
    assert_eq!(config.umem.frames, Some(2048));
    assert_eq!(config.daemon.run_dir, Path::new("/tmp/r"));
    assert_eq!(config.daemon.control_socket, Path::new("/tmp/c"));
    assert_eq!(config.bridges[0].xdp, XdpMode::Generic);
    assert_eq!(
        (config.bridges[0].vlan, config.bridges[1].vlan),
        (Some(4094), None)
    );
    assert_eq!(config.bridges[0].bulk, Bulk::Off);
    assert_eq!(config.bridges[1].bulk, Bulk::Auto);
    assert_eq!(config.bridges[1].uplink, None);
    assert!(config.bridges[0].host && !config.bridges[1].host);
    // What a host port reads into is counted, a queue a worker.
    let without = parse(&text.replace("host = true", "host = false")).unwrap();
    assert!(config.frames_needed() >= without.frames_needed() + 3 * 18);
    assert_eq!((config.worker_count(), config.max_queues()), (3, 2));
}

/// A configuration with one mistake in it, and the whole line that it is refused with.
const MISTAKES: &[(&str, &str)] = &[
    (
        "[[bridge\n",
        "n.toml:1: this is not TOML: unclosed array table, expected `]]`",
    ),
    (
        "[workers\ncount = 1\n",
        "n.toml:1: this is not TOML: unclosed table, expected `]`",
    ),
    (
        "[[bridge]]\nname = xenbr0\n",
        "n.toml:2: this is not TOML: string values must be quoted, expected literal string (at xenbr0)",
    ),
    (
        "[[bridge]]\nname = \"xenbr0\n",
        "n.toml:2: this is not TOML: invalid basic string, expected `\"`",
    ),
    (
        "[[bridge]]\nname \"xenbr0\"\n",
        "n.toml:2: this is not TOML: key with no value, expected `=`",
    ),
    (
        "[workers]\ncount =\n",
        "n.toml:2: this is not TOML: string values must be quoted, expected literal string",
    ),
    (
        "[workers]\ncount = 1\ncount = 2\n",
        "n.toml:3: this is not TOML: duplicate key (at count)",
    ),
    (
        "[workers]\n[workers]\n",
        "n.toml:2: this is not TOML: duplicate key (at workers)",
    ),
    (
        "[workers]\ncount = 007\n",
        "n.toml:2: this is not TOML: unexpected leading zero, expected nothing (at 0)",
    ),
    (
        "hello\n",
        "n.toml:1: this is not TOML: key with no value, expected `=`",
    ),
    (
        "{\"bridge\": []}\n",
        "n.toml:1: this is not TOML: invalid key-value pair, expected key",
    ),
    (
        "[workers]\ncount = 1 pin = true\n",
        "n.toml:2: this is not TOML: unexpected key or value, expected newline, `#`",
    ),
    (
        "[[bridge]]\nname = \"a\\q\"\n",
        "n.toml:2: this is not TOML: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, `x`, `u`, `U`",
    ),
    (
        "[[bridge]]\nname = 'x\n",
        "n.toml:2: this is not TOML: invalid literal string, expected `'`",
    ),
    (
        "[bridge]\nname=\"a\"\n[[bridge]]\nname=\"b\"\n",
        "n.toml:3: this is not TOML: duplicate key (at bridge)",
    ),
    (
        "[bridge]\nname = \"xenbr0\"\n",
        "n.toml:1: bridge: write [[bridge]], with two brackets on each side",
    ),
    (
        "[[bridge]]\nname = \"a\"\nhost = \"yes\"\n",
        "n.toml:3: bridge.host: \"yes\" is not true or false",
    ),
    (
        "[[bridge]]\nname = \"a-name-of-16-byte\"\nhost = true\n",
        "n.toml:3: bridge.host: the host port has the bridge's name, and \"a-name-of-16-byte\" cannot be the name of a network interface: at most 15 bytes without / and :",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"a\"\nhost = true\n",
        "n.toml:3: bridge.uplink: \"a\" is the host port of a bridge, no network card",
    ),
    (
        "[[bridge]]\nname = \"a\"\nhost = true\n[[bridge]]\nname = \"b\"\nuplink = \"a\"\n",
        "n.toml:6: bridge.uplink: \"a\" is the host port of a bridge, no network card",
    ),
    (
        "[[bridge]]\nname = \"b\"\nuplink = \"a\"\n[[bridge]]\nname = \"a\"\nhost = true\n",
        "n.toml:6: bridge.host: \"a\" is the uplink of an earlier bridge",
    ),
    (
        "bridge = \"xenbr0\"\n",
        "n.toml:1: bridge: it is a table: write [[bridge]], and its keys below",
    ),
    (
        "bridge = [\"xenbr0\"]\n",
        "n.toml:1: bridge: it is a table: write [[bridge]], and its keys below",
    ),
    (
        "[wokers]\ncount = 1\n",
        "n.toml:1: wokers: there is no such table; there are [[bridge]], [workers], [vif], [umem], [daemon]",
    ),
    (
        "[[bridges]]\nname = \"xenbr0\"\n",
        "n.toml:1: bridges: there is no such table; there are [[bridge]], [workers], [vif], [umem], [daemon]",
    ),
    (
        "[[workers]]\ncount = 1\n",
        "n.toml:1: workers: there is one such table: write [workers], or its keys in {}",
    ),
    (
        "workers = 2\n",
        "n.toml:1: workers: it is a table: write [workers], and its keys below",
    ),
    ("count = 2\n", "n.toml:1: count: it belongs below [workers]"),
    (
        "name = \"xenbr0\"\n",
        "n.toml:1: name: it belongs below a [[bridge]]",
    ),
    (
        "colour = \"red\"\n",
        "n.toml:1: colour: there is no such table; there are [[bridge]], [workers], [vif], [umem], [daemon]",
    ),
    (
        "[vif.queues]\nmax = 1\n",
        "n.toml:1: vif.queues: there is no such key; vif has max_queues, backlog_bytes, backlog_ms, stall_ms, rate_in, mac_lock, ip, isolated",
    ),
    (
        "[vif]\n[workers.count]\nx=1\n",
        "n.toml:2: workers.count: a table is not a whole number from 1 to 256",
    ),
    (
        "\"a\\nb\" = 1\n",
        "n.toml:1: a\\nb: there is no such table; there are [[bridge]], [workers], [vif], [umem], [daemon]",
    ),
    (
        "[workers]\n\"a\\nb\" = 1\n",
        "n.toml:2: workers.a\\nb: there is no such key; workers has count, pin, poll_us",
    ),
    (
        "[count]\nx = 1\n",
        "n.toml:1: count: there is no such table; there are [[bridge]], [workers], [vif], [umem], [daemon]",
    ),
    (
        "[workers]\ncont = 1\n",
        "n.toml:2: workers.cont: there is no such key; workers has count, pin, poll_us",
    ),
    (
        "[[bridge]]\nname = \"a\"\nup-link = \"eth0\"\n",
        "n.toml:3: bridge.up-link: there is no such key; bridge has name, uplink, backup, xdp, bulk, vlan, host",
    ),
    (
        "[[bridge]]\nuplink = \"eth0\"\n",
        "n.toml:1: bridge.name: it is missing: write name = \"xenbr0\", or what guests' bridge= says",
    ),
    (
        "[[bridge]]\n",
        "n.toml:1: bridge.name: it is missing: write name = \"xenbr0\", or what guests' bridge= says",
    ),
    (
        "\n[[bridge]]\nname = \"a\"\n\n[[bridge]]\nuplink = \"eth1\"\n",
        "n.toml:5: bridge.name: it is missing: write name = \"xenbr0\", or what guests' bridge= says",
    ),
    (
        "[workers]\ncount = \"two\"\n",
        "n.toml:2: workers.count: \"two\" is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = \"2\"\n",
        "n.toml:2: workers.count: \"2\" is not a whole number from 1 to 256; write it without quotes",
    ),
    (
        "[workers]\ncount = 1.5\n",
        "n.toml:2: workers.count: 1.5 is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = true\n",
        "n.toml:2: workers.count: true is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = [1]\n",
        "n.toml:2: workers.count: a list is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = { n = 1 }\n",
        "n.toml:2: workers.count: a table is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = 2026-01-01\n",
        "n.toml:2: workers.count: 2026-01-01 is not a whole number from 1 to 256",
    ),
    (
        "[workers]\npin = \"true\"\n",
        "n.toml:2: workers.pin: \"true\" is not true or false; write it without quotes",
    ),
    (
        "[workers]\npin = 1\n",
        "n.toml:2: workers.pin: 1 is not true or false",
    ),
    (
        "[workers]\npin = \"yes\"\n",
        "n.toml:2: workers.pin: \"yes\" is not true or false",
    ),
    (
        "[[bridge]]\nname = 5\n",
        "n.toml:2: bridge.name: 5 is not text in double quotes",
    ),
    (
        "[[bridge]]\nname = [\"a\", \"b\"]\n",
        "n.toml:2: bridge.name: a list is not text in double quotes",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = true\n",
        "n.toml:3: bridge.uplink: true is not text in double quotes",
    ),
    (
        "[[bridge]]\nname = \"a\"\nxdp = 1\n",
        "n.toml:3: bridge.xdp: 1 is not text in double quotes",
    ),
    (
        "[daemon]\nrun_dir = 1\n",
        "n.toml:2: daemon.run_dir: 1 is not text in double quotes",
    ),
    (
        "[daemon]\nrun_dir = [\n  \"/run\",\n]\n",
        "n.toml:2: daemon.run_dir: a list is not text in double quotes",
    ),
    (
        "[workers]\ncount = 0\n",
        "n.toml:2: workers.count: 0 is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = 257\n",
        "n.toml:2: workers.count: 257 is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = -1\n",
        "n.toml:2: workers.count: -1 is not a whole number from 1 to 256",
    ),
    (
        "[workers]\ncount = 99999999999999999999\n",
        "n.toml:2: workers.count: 99999999999999999999 is not a whole number from 1 to 256",
    ),
    (
        "[workers]\npoll_us = 1000001\n",
        "n.toml:2: workers.poll_us: 1000001 is not a whole number from 0 to 1000000",
    ),
    (
        "[vif]\nmax_queues = 65\n",
        "n.toml:2: vif.max_queues: 65 is not a whole number from 1 to 64",
    ),
    (
        "[vif]\nbacklog_bytes = 1\n",
        "n.toml:2: vif.backlog_bytes: 1 is not a whole number from 65536 to 2097152",
    ),
    (
        "[vif]\nbacklog_bytes = 268435456\n",
        "n.toml:2: vif.backlog_bytes: 268435456 is not a whole number from 65536 to 2097152",
    ),
    (
        "[vif]\nbacklog_ms = 0\n",
        "n.toml:2: vif.backlog_ms: 0 is not a whole number from 1 to 600000",
    ),
    (
        "[umem]\nframes = 1023\n",
        "n.toml:2: umem.frames: 1023 is not a whole number from 1024 to 1048576",
    ),
    (
        "[umem]\nframes = 2_000_000\n",
        "n.toml:2: umem.frames: 2_000_000 is not a whole number from 1024 to 1048576",
    ),
    (
        "[daemon]\nrun_dir = \"run\"\n",
        "n.toml:2: daemon.run_dir: \"run\" is not an absolute path",
    ),
    (
        "[daemon]\nrun_dir = \"\"\n",
        "n.toml:2: daemon.run_dir: \"\" is not an absolute path",
    ),
    (
        "[daemon]\ncontrol_socket = \"~/control\"\n",
        "n.toml:2: daemon.control_socket: \"~/control\" is not an absolute path",
    ),
    (
        "[daemon]\nbpf_dir = \"/a\\u0000b\"\n",
        "n.toml:2: daemon.bpf_dir: \"/a\\0b\" is not an absolute path",
    ),
    (
        "[daemon]\nrun_dir = \"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n",
        "n.toml:2: daemon.run_dir: the control socket would have a path of 126 bytes, and 107 is the most",
    ),
    (
        "[[bridge]]\nname = \"\"\n",
        "n.toml:2: bridge.name: \"\" is not a name of 1 to 64 bytes without white space",
    ),
    (
        "[[bridge]]\nname = \"a b\"\n",
        "n.toml:2: bridge.name: \"a b\" is not a name of 1 to 64 bytes without white space",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth/0\"\n",
        "n.toml:3: bridge.uplink: \"eth/0\" cannot be the name of a network interface",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"\"\n",
        "n.toml:3: bridge.uplink: \"\" cannot be the name of a network interface",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"abcdefghijklmnop\"\n",
        "n.toml:3: bridge.uplink: \"abcdefghijklmnop\" cannot be the name of a network interface",
    ),
    (
        "[[bridge]]\nname = \"a\"\nxdp = \"fast\"\n",
        "n.toml:3: bridge.xdp: \"fast\" is not \"auto\", \"native\" or \"generic\"",
    ),
    (
        "[[bridge]]\nname = \"a\"\nbulk = true\n",
        "n.toml:3: bridge.bulk: true is not text in double quotes",
    ),
    (
        "[[bridge]]\nname = \"a\"\nbulk = \"on\"\n",
        "n.toml:3: bridge.bulk: \"on\" is not \"auto\" or \"off\"",
    ),
    (
        "[[bridge]]\nname = \"a\"\nxdp = \"Native\"\n",
        "n.toml:3: bridge.xdp: \"Native\" is not \"auto\", \"native\" or \"generic\"",
    ),
    (
        "[[bridge]]\nname = \"a\"\n[[bridge]]\nname = \"a\"\n",
        "n.toml:4: bridge.name: \"a\" is the name of an earlier bridge",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth0\"\n",
        "n.toml:6: bridge.uplink: \"eth0\" is the uplink of bridge \"a\": give one of the two a vlan of its own",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\nvlan = 7\n[[bridge]]\nname = \"b\"\nuplink = \"eth0\"\nvlan = 7\n",
        "n.toml:7: bridge.uplink: \"eth0\" is the uplink of bridge \"a\": give one of the two a vlan of its own",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\nvlan = 1\n[[bridge]]\nname = \"b\"\nuplink = \"eth0\"\n",
        "n.toml:7: bridge.uplink: \"eth0\" is the uplink of bridge \"a\": give one of the two a vlan of its own",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth0\"\nvlan = 7\nxdp = \"generic\"\n",
        "n.toml:6: bridge.uplink: bridge \"a\" has the same uplink and another xdp: say the same in both",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth0\"\nvlan = 7\nbulk = \"off\"\n",
        "n.toml:6: bridge.uplink: bridge \"a\" has the same uplink and another bulk: say the same in both",
    ),
    (
        "[[bridge]]\nname = \"a\"\nvlan = 7\n",
        "n.toml:3: bridge.vlan: it is a VLAN of the uplink, and there is none: name one, or take vlan out",
    ),
    (
        "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\nvlan = 4095\n",
        "n.toml:4: bridge.vlan: 4095 is not a whole number from 1 to 4094",
    ),
    (
        "[vif]\nip = \"10.0.0.1,10.0.0.2\"\n",
        "n.toml:2: vif.ip: \"10.0.0.1,10.0.0.2\" is no address and no prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::7",
    ),
    (
        "[vif]\nip = \"\"\n",
        "n.toml:2: vif.ip: it lists no address",
    ),
];

#[test]
fn each_mistake_has_its_line() {
    let mut wrong = Vec::new();
    for (text, expected) in MISTAKES {
        let error = parse(text).expect_err(text);
        if error != *expected {
            wrong.push(format!("{text:?}\n gave {error:?}\n not  {expected:?}"));
        }
        assert_eq!(error.lines().count(), 1, "{error:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let refused = |path: &Path| Config::load(path).unwrap_err().to_string();
    let missing = refused(Path::new("/nonexistent/n.toml"));
    assert!(
        missing.starts_with("/nonexistent/n.toml: no such file; write one"),
        "{missing}"
    );
    assert_eq!(
        refused(Path::new("/")),
        "/: it is a directory; name a file with --config"
    );
    let binary = std::env::temp_dir().join(format!("netback-config-{}", std::process::id()));
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(refused(&binary).ends_with("it holds bytes that are not UTF-8 text"));
    std::fs::remove_file(binary).unwrap();
}
