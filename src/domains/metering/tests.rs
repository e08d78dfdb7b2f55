//! Requests and people on their way from memory to the disk.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::domains::tenants::{self, Tenant};
use crate::store::{Options, WriterParts};
use crate::testkit::Folder;

struct Place {
    folder: Folder,
    tenant: TenantId,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        let tenant = TenantId::from_bytes([3; 16]);
        let clock = Clock::simulated(Timestamp::from_millis(1_800_000_000_000));
        let place = Self { folder: Folder::new().unwrap(), tenant, clock };
        let store = place.open();
        store.start(WriterParts::plain(Clock::System)).unwrap();
        let row = Tenant::new(tenant, "one", place.clock.now());
        store.write_blocking(move |tx| tenants::save(tx, None, &row)).unwrap();
        store.stop();
        place
    }

    fn open(&self) -> Store {
        Store::open(&self.folder.path().join("x.redb"), Options::default(), true).unwrap()
    }

    fn metering(&self, store: &Store) -> Metering {
        Metering::rebuild(store.clone(), Tenants::rebuild(store.clone()).unwrap(), self.clock.clone()).unwrap()
    }

    fn use_it(&self, metering: &Metering, n: u8) {
        for i in 0..n {
            metering.inner.tenants.entry(self.tenant).unwrap().count_request();
            metering.person(self.tenant, UserId::from_bytes([i; 16]), self.clock.now());
        }
    }

    fn counted(&self, metering: &Metering) -> (u64, u64) {
        let day = day_at(self.clock.now());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let usage = runtime.block_on(metering.usage(self.tenant, day, day, Span::Day)).unwrap();
        usage.get(&day).map_or((0, 0), |c| (c.get(Measure::Requests), c.get(Measure::ActiveUsers)))
    }
}

fn parts(metering: &Metering) -> WriterParts {
    WriterParts { housekeeping: vec![metering.housekeeping()], ..WriterParts::plain(Clock::System) }
}

/// A site with four commits a second is never idle, and up to 256 commits' requests were lost even by a clean stop.
#[test]
fn a_clean_stop_writes_down_what_a_busy_writer_had_no_time_for() {
    let place = Place::new();
    let store = place.open();
    let metering = place.metering(&store);
    store.start(parts(&metering)).unwrap();
    store.write_blocking(|_| Ok(())).unwrap();
    place.use_it(&metering, 7);
    store.stop();
    drop((store, metering));
    let store = place.open();
    assert_eq!(place.counted(&place.metering(&store)), (7, 7));
}

#[test]
fn a_writer_that_is_never_idle_writes_them_down_twice_a_second() {
    let place = Place::new();
    let store = place.open();
    let metering = place.metering(&store);
    store.start(parts(&metering)).unwrap();
    place.use_it(&metering, 3);
    let watch = Stopwatch::start();
    let key = || Key::new().text(LAST_PEOPLE_CUT);
    while store.read().unwrap().get_raw(META, key()).unwrap().is_none() {
        assert!(watch.elapsed() < Duration::from_secs(5), "nothing was written");
        store.write_blocking(|tx| tx.put_raw(META, Key::new().text("busy"), b"x")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    store.stop();
}

/// Between taking the counters out of memory and the end of the commit they were in neither place, and whoever asked saw
/// too few.
#[test]
fn what_is_being_written_is_seen_once_before_and_after() {
    let place = Place::new();
    let store = place.open();
    let metering = place.metering(&store);
    place.use_it(&metering, 5);
    let mut writing = Writing { metering: metering.clone(), last: Stopwatch::start(), written: false };
    // A commit that hangs between its work and its end.
    let (sender, hangs) = std::sync::mpsc::channel::<()>();
    let (began, begun) = std::sync::mpsc::channel::<()>();
    store.start(WriterParts::plain(Clock::System)).unwrap();
    let busy = store.clone();
    let change = std::thread::spawn(move || {
        let hangs = Mutex::new(hangs);
        busy.write_blocking(move |tx| {
            writing.run(tx, true)?;
            began.send(()).unwrap();
            let _ = lock(&hangs).recv();
            Ok(())
        })
    });
    begun.recv().unwrap();
    assert_eq!(place.counted(&metering), (5, 5), "under way");
    place.use_it(&metering, 6);
    assert_eq!(place.counted(&metering), (11, 6), "and more came");
    sender.send(()).unwrap();
    change.join().unwrap().unwrap();
    assert_eq!(place.counted(&metering), (11, 6), "on the disk, and none twice");
    store.stop();
}
