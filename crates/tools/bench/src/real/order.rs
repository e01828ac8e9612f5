//! The structs of the pipeline.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::random::mix;
use crate::measure::Scale;
use crate::work::check;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    pub customer: String,
    pub quantity: u32,
    pub price: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Priced {
    pub id: u64,
    pub total: u64,
}

/// How many orders there are.
pub fn order_count(scale: Scale) -> u64 {
    scale.times(500_000) as u64
}

pub fn order(id: u64) -> Order {
    let customer = format!("customer {}", id % 1_000);
    Order { id, customer, quantity: u32::try_from(mix(id) % 10).unwrap_or(0), price: mix(id) % 10_000 }
}

pub fn price(order: &Order) -> Priced {
    let discount = u64::from(order.customer.ends_with('7'));
    Priced { id: order.id, total: u64::from(order.quantity) * order.price.saturating_sub(discount) }
}

/// All that came through.
#[derive(Default)]
pub struct Ledger {
    count: u64,
    ids: u64,
    total: u64,
}

impl Ledger {
    pub fn add(&mut self, priced: Priced) {
        self.count += 1;
        self.ids += priced.id;
        self.total += priced.total;
    }

    pub fn check(&self, scale: Scale) -> Result<()> {
        let count = order_count(scale);
        check("number of orders", count, self.count)?;
        check("sum of their numbers", (0..count).sum(), self.ids)?;
        check("sum of their prices", (0..count).map(|id| price(&order(id)).total).sum(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_and_a_doubled_order_are_noticed() {
        let quick = Scale { quick: true };
        let mut ledger = Ledger::default();
        for id in 1..order_count(quick) {
            ledger.add(price(&order(id)));
        }
        assert!(ledger.check(quick).is_err());
        ledger.add(price(&order(0)));
        ledger.check(quick).unwrap();
        ledger.add(price(&order(0)));
        assert!(ledger.check(quick).is_err());
    }
}
