//! A log's files in memory, as an export would write them.

use std::collections::BTreeMap;

use blockremote::domains::audit::verify::Source;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Fault, Server};

/// Content by name.
#[derive(Clone, Default)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Source for Files {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.get(name).cloned())
    }
}

/// What an export of this tenant's log holds now.
pub async fn exported(server: &Server, tenant: TenantId) -> Result<Files, Fault> {
    let audit = server.app().services.audit.clone();
    let read = move |snapshot: &blockremote::store::Snapshot| {
        let mut files = Files::default();
        audit.export(snapshot, tenant, &mut |name, bytes| {
            files.0.insert(name.to_owned(), bytes.to_vec());
            Ok(())
        })?;
        Ok(files)
    };
    Ok(server.app().services.store.read_with(read).await?)
}
