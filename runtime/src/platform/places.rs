//! Places for what only so many may do at the same time, with a share for each tenant.
//!
//! Who has a place keeps it for as long as it is slow. So a tenant has a part of them and never all, and the operator has places of its
//! own: no number of tenants keeps it from its work.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many places each tenant has.
type Taken = Arc<Mutex<HashMap<String, usize>>>;

/// See the [module](self). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Places {
    all: Arc<Semaphore>,
    of_a_tenant: usize,
    taken: Taken,
    operators: Arc<Semaphore>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The tenant has its share already.
    ForTheTenant,
    /// Others have them all.
    AtAll,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    /// Where it is counted; absent: the operator's, which nobody else has a share of.
    share: Option<(String, Taken)>,
    _place: OwnedSemaphorePermit,
}

impl Places {
    /// So many for all tenants, and of those so many for one.
    #[must_use]
    pub fn new(all: usize, of_a_tenant: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_a_tenant,
            taken: Taken::default(),
            operators: Arc::new(Semaphore::new(0)),
        }
    }

    /// And so many beside them for the operator.
    #[must_use]
    pub fn and_for_the_operator(mut self, places: usize) -> Self {
        self.operators = Arc::new(Semaphore::new(places));
        self
    }

    /// A place of this tenant's, or of the operator's where none is named.
    pub fn take(&self, tenant: Option<&str>) -> Result<Place, NoPlace> {
        let free = |places: &Arc<Semaphore>| {
            let place = Arc::clone(places).try_acquire_owned();
            place.map_err(|_| NoPlace::AtAll)
        };
        let Some(tenant) = tenant else {
            return Ok(Place {
                share: None,
                _place: free(&self.operators)?,
            });
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let has = taken.get(tenant).copied().unwrap_or_default();
        if has >= self.of_a_tenant {
            return Err(NoPlace::ForTheTenant);
        }
        let place = free(&self.all)?;
        taken.insert(tenant.to_owned(), has + 1);
        Ok(Place {
            share: Some((tenant.to_owned(), Arc::clone(&self.taken))),
            _place: place,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((tenant, taken)) = self.share.take() else {
            return;
        };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut places) = taken.entry(tenant) {
            *places.get_mut() -= 1;
            if *places.get() == 0 {
                places.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_share_of_the_places_and_the_others_have_theirs() {
        let places = Places::new(4, 2);
        let first = places.take(Some("acme")).unwrap();
        let second = places.take(Some("acme")).unwrap();
        let again = places.take(Some("acme"));
        assert_eq!(again.unwrap_err(), NoPlace::ForTheTenant);
        let others = ["b", "c"].map(|tenant| places.take(Some(tenant)).unwrap());
        assert_eq!(places.take(Some("d")).unwrap_err(), NoPlace::AtAll);
        drop(first);
        let third = places.take(Some("acme")).unwrap();
        let again = places.take(Some("acme"));
        assert_eq!(again.unwrap_err(), NoPlace::ForTheTenant);
        drop((second, third, others));
        let taken = places.taken.lock().unwrap();
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn no_tenant_takes_a_place_of_the_operators_and_it_takes_none_of_theirs() {
        let places = Places::new(2, 2).and_for_the_operator(1);
        let theirs = [(); 2].map(|()| places.take(Some("acme")).unwrap());
        assert_eq!(places.take(Some("b")).unwrap_err(), NoPlace::AtAll);
        let own = places.take(None).unwrap();
        assert_eq!(places.take(None).unwrap_err(), NoPlace::AtAll);
        drop(theirs);
        let theirs = [(); 2].map(|()| places.take(Some("acme")).unwrap());
        drop(own);
        assert!(places.take(None).is_ok());
        drop(theirs);
    }

    #[test]
    fn a_refused_tenant_is_not_counted() {
        let places = Places::new(1, 2);
        let place = places.take(Some("acme")).unwrap();
        assert_eq!(places.take(Some("b")).unwrap_err(), NoPlace::AtAll);
        drop(place);
        assert!(places.taken.lock().unwrap().is_empty());
        assert!(places.take(Some("b")).is_ok());
    }
}
