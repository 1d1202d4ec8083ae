//! What the doctor reads in xenstore.
use super::super::view::backends;
use xen::store::{StoreError, Transaction, WatchEvent, XenStore};

/// A xenstore with just enough in it to be read.
struct FewKeys(Vec<(&'static str, &'static str)>);

impl XenStore for FewKeys {
    fn read(&mut self, _: Transaction, path: &str) -> Result<String, StoreError> {
        let found = self.0.iter().find(|(key, _)| *key == path);
        found
            .map(|(_, value)| (*value).into())
            .ok_or_else(|| StoreError::Missing(path.into()))
    }
    fn directory(&mut self, _: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        let below = format!("{path}/");
        let mut names: Vec<String> = Vec::new();
        for name in self
            .0
            .iter()
            .filter_map(|(key, _)| key.strip_prefix(&below)?.split('/').next())
        {
            if names.last().is_none_or(|last| last != name) {
                names.push(name.into());
            }
        }
        if names.is_empty() {
            Err(StoreError::Missing(path.into()))
        } else {
            Ok(names)
        }
    }
    fn write(&mut self, _: Transaction, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn remove(&mut self, _: Transaction, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn begin(&mut self) -> Result<Transaction, StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn end(&mut self, _: Transaction, _: bool) -> Result<(), StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn watch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor does not stay")
    }
    fn unwatch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor does not stay")
    }
    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError> {
        Ok(Vec::new())
    }
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        unreachable!("the doctor does not stay")
    }
}

#[test]
fn reads_every_vif_of_the_backend_directory() {
    let mut store = FewKeys(vec![
        ("backend/vif/3/0/bridge", "xenbr0"),
        ("backend/vif/3/0/mac", "00:16:3e:00:00:03"),
        ("backend/vif/3/1/script", "/etc/xen/scripts/vif-netback"),
        ("backend/vif/12/0/hotplug-error", "no bridge"),
    ]);
    let found = backends(&mut store).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|vif| (vif.domid.as_str(), vif.devid.as_str()))
        .collect();
    assert_eq!(names, [("3", "0"), ("3", "1"), ("12", "0")]);
    assert_eq!(found[0].mac.as_deref(), Some("00:16:3e:00:00:03"));
    assert_eq!(found[0].mtu, None);
    assert_eq!(
        found[1].script.as_deref(),
        Some("/etc/xen/scripts/vif-netback")
    );
    assert_eq!(found[2].hotplug_error.as_deref(), Some("no bridge"));
    assert_eq!(backends(&mut FewKeys(Vec::new())).unwrap(), []);
}
