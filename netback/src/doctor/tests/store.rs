//! What the doctor reads in xenstore.
use super::super::view::backends;
use xen::fake::Store;
use xen::grant::DomId;

#[test]
fn reads_every_vif_of_the_backend_directory() {
    let store = Store::default();
    let mut connection = store.connect(DomId(7));
    assert_eq!(backends(&mut connection).unwrap(), []);
    for (key, value) in [
        ("3/0/bridge", "xenbr0"),
        ("3/0/mac", "00:16:3e:00:00:03"),
        ("3/1/mtu", "9000"),
        ("4/0/hotplug-error", "no bridge"),
    ] {
        store.set(&format!("/local/domain/7/backend/vif/{key}"), value);
    }
    let found = backends(&mut connection).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|vif| (vif.domid.as_str(), vif.devid.as_str()))
        .collect();
    assert_eq!(names, [("3", "0"), ("3", "1"), ("4", "0")]);
    assert_eq!(found[0].mac.as_deref(), Some("00:16:3e:00:00:03"));
    assert_eq!(found[0].mtu, None);
    assert_eq!(found[1].mtu.as_deref(), Some("9000"));
    assert_eq!(found[2].hotplug_error.as_deref(), Some("no bridge"));
}
