use super::*;

fn problems(text: &str) -> Vec<String> {
    match parse(Path::new("t.toml"), text.to_owned()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn the_shipped_files_are_valid() {
    for (name, text) in [
        ("config/liuta.toml", include_str!("../../../config/liuta.toml")),
        ("config/demo.toml", include_str!("../../../config/demo.toml")),
    ] {
        parse(Path::new(name), text.to_owned()).unwrap_or_else(|problems| panic!("{problems}"));
        // What stands there as a comment is valid as well.
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let problems = problems(&uncommented.replace("{ file = \"/etc", "{ env = \"PATH\" } #"));
        let unexpected: Vec<_> = problems
            .iter()
            .filter(|problem| !["secret", "/etc/liuta/cert.pem"].iter().any(|file| problem.contains(file)))
            .collect();
        assert!(unexpected.is_empty(), "{name}: {unexpected:#?}");
    }
}

#[test]
fn every_problem_is_told_at_its_place() {
    let found = problems(
        "[record]\nretension = \"24h\"\nmax_size = 5\n\n[cameras.Gate]\nurl = \"http://x\"\n\n\
         [channels.wall]\ncamera = \"gate\"\n[cameras.ok]\nurl = \"rtsp://h/1\"\nscene = \"forest-fier\"\n",
    );
    let expected = [
        "t.toml:2:1: unknown key \"retension\"; did you mean \"retention\"?",
        "t.toml:3:12: max_size: invalid type: integer `5`, expected a string",
        "t.toml:5:10: \"Gate\" is no id",
        "t.toml:6:7: url: http: is no RTSP address",
        "t.toml:9:10: there is no camera \"gate\"",
        "t.toml:12:9: there is no scene \"forest-fier\"; did you mean \"forest-fire\"?",
    ];
    for line in expected {
        assert!(found.iter().any(|problem| problem.starts_with(line)), "{line}\nnot in {found:#?}");
    }
}

#[test]
fn what_can_never_work_is_refused() {
    let camera = "[cameras.a]\nurl = \"rtsp://h/1\"\nscene = \"forest-fire\"\n";
    for (text, told) in [
        (
            "[api]\nlisten = \"0.0.0.0:80\"\nplain_http = true\n[rtsp]\nlisten = \"127.0.0.1:80\"\n",
            "t.toml:5:10: listen: 127.0.0.1:80 is [api] listen",
        ),
        ("[record]\nretention = \"1h\"\nsync = \"1h\"\n", "t.toml:3:8: sync: from 100ms"),
        (
            "[record.volumes.a]\npath = \"/mnt/a\"\n[record.volumes.b]\npath = \"/mnt/a/b\"\n",
            "t.toml:4:8: path: volume a lies there",
        ),
        ("[record.volumes.a]\npath = \"mnt\"\n", "t.toml:2:8: path: must begin with /"),
        ("[record.volumes.ring]\npath = \"/mnt\"\n", "t.toml:1:17: \"ring\" is taken"),
        ("[record]\nmax_size = \"0GB\"\n", "t.toml:2:12: max_size: nothing could"),
        ("[box]\nid = \"\"\n", "t.toml:2:6: id: is empty"),
        ("[cameras.a]\nurl = \"rtsp://u:p@h/1\"\nusername = \"v\"\n", "t.toml:1:10: username: url holds one"),
        (
            &format!("{camera}[cameras.a.zones.z]\npoints = [[0.0,0.0],[0.5,0.5],[1.0,1.0]]\n"),
            "t.toml:5:10: points: the corners enclose nothing",
        ),
        (
            &format!("{camera}[cameras.a.zones.z]\npoints = [[0.0,0.0],[1.0,1.0],[1.0,0.0],[0.0,1.0]]\n"),
            "t.toml:5:10: points: two sides cross",
        ),
        (
            &format!(
                "{camera}[cameras.a.zones.z]\npoints = [[0.0,0.0],[1.0,1.0],[1.0,0.0]]\nkinds = [\"crowd\"]\n"
            ),
            "t.toml:6:9: kinds: the scene forest-fire does not watch for crowd; it has fire, smoke",
        ),
        ("[cameras.a]\nurl = \"http://h/1\"\n", "t.toml:2:7: url: http: is no RTSP address"),
        (
            "[cameras.a]\nurl = \"rtsp://h/1\"\n[cameras.a]\nname = \"A\"\n",
            "t.toml:3:10: duplicate key \"a\"",
        ),
    ] {
        let found = problems(text);
        assert!(found.len() == 1 && found[0].starts_with(told), "{told}\nnot alone in {found:#?}");
    }
}

#[test]
fn what_may_come_yet_is_a_warning() {
    let text = "[vision]\nhw_profile = \"nvdia\"\nonnxruntime = \"/none.so\"\n[cameras.a]\nurl = \"rtsp://h/1\"\n\
                [cameras.a.zones.z]\npoints = [[0.0,0.0],[1.0,1.0],[1.0,0.0]]\n";
    let config = parse(Path::new("t.toml"), text.to_owned()).unwrap();
    let mut told: Vec<_> = config.warnings.iter().map(Problem::to_string).collect();
    told.sort();
    assert_eq!(told[0], "t.toml:2:14: hw_profile: there is no \"nvdia\"; did you mean \"nvidia\"?");
    assert!(told[1].starts_with("t.toml:3:15: onnxruntime: there is no /none.so"), "{told:?}");
    assert!(told[2].starts_with("t.toml:6:12: zones: do nothing without a scene"), "{told:?}");
    assert_eq!(told.len(), 3);
}

#[test]
fn syntax_errors_name_their_line() {
    let found = problems("data = \"/tmp\"\n[box\nid = 3\n");
    assert!(found[0].starts_with("t.toml:2:"), "{found:?}");
}

#[test]
fn passwords_are_taken_out_of_addresses_and_never_shown() {
    let text = "[cameras.a]\nurl = \"rtsp://admin:p%40ss@192.0.2.1/s\"\n";
    let config = parse(Path::new("t.toml"), text.to_owned()).unwrap();
    let camera = &config.cameras["a"];
    assert_eq!(camera.url.as_str(), "rtsp://192.0.2.1/s");
    assert_eq!(camera.credentials.as_ref().unwrap().password.expose(), "p@ss");
    assert!(!format!("{config:?}").contains("p@ss"));
    let found = problems("[cameras.a]\nurl = \"rtsp://admin:p4ss@[bad/s\"\npassword = \"tea\"\n");
    assert!(
        !found.is_empty()
            && found.iter().all(|problem| !problem.contains("p4ss") && !problem.contains("tea"))
    );
}

#[test]
fn the_contract_example_is_valid() {
    let text = r#"
        data = "/tmp/liuta"
        [box]
        id = "edge-1"
        public_url = "http://127.0.0.1:8080"
        [api]
        listen = "127.0.0.1:8080"
        [rtsp]
        listen = "127.0.0.1:8554"
        [auth]
        anonymous = "viewer"
        [record]
        retention = "24h"
        max_size = "500GB"
        [vision]
        hw_profile = "auto"
        [channels.wall-1]
        camera = "forest-1"
        [dispatch.desk]
        type = "webhook"
        url = "http://127.0.0.1:9000/alerts"
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        [cameras.forest-1]
        name = "神东林区 1 号"
        url = "rtsp://127.0.0.1:9554/forest-1"
        sub_url = "rtsp://127.0.0.1:9554/forest-1-sub"
        username = "admin"
        password = { env = "PATH" }
        scene = "forest-fire"
        grid = "610881103001002"
        position = [110.2345, 39.1234]
        [cameras.forest-1.zones.slope]
        points = [[0.0,0.4],[1.0,0.4],[1.0,1.0],[0.0,1.0]]
        kinds = ["fire", "smoke"]
    "#;
    let config = parse(Path::new("t.toml"), text.to_owned()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.cameras["forest-1"].zones[0].kinds, [Kind::Fire, Kind::Smoke]);
    assert!(config.anonymous_viewer);
}
