//! Keys of a guest's vif in xenstore, as the toolstack writes them and as the driver domain answers.
use anyhow::Result;
use lab::Lab;
use xen::store::{StoreError, Transaction, XenStore};

/// The backend's directory of the only vif of `lab.guests[number]`.
pub fn backend(lab: &Lab, number: usize) -> String {
    let (driver, guest) = (lab.driver_domain().id(), lab.guests[number].domid);
    format!("/local/domain/{driver}/backend/vif/{guest}/0")
}

/// The frontend's directory of the only vif of `lab.guests[number]`.
pub fn frontend(lab: &Lab, number: usize) -> String {
    format!("/local/domain/{}/device/vif/0", lab.guests[number].domid)
}

/// Writes a key of the backend's directory; `None` removes it.
pub fn set(lab: &mut Lab, number: usize, key: &str, value: Option<&str>) -> Result<()> {
    let path = format!("{}/{key}", backend(lab, number));
    let store = lab.toolstack.store();
    match value {
        Some(value) => store.write(Transaction::NONE, &path, value)?,
        None => store.remove(Transaction::NONE, &path)?,
    }
    Ok(())
}

/// A key by its whole path; `None` where it is not there.
pub fn get(lab: &mut Lab, path: &str) -> Result<Option<String>> {
    match lab.toolstack.store().read(Transaction::NONE, path) {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
