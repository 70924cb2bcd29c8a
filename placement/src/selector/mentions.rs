//! What an expression reads of a device: results are kept by that alone, so that devices which differ in nothing
//! else share one evaluation.

use std::collections::BTreeSet;

use cel::common::ast::operators::{INDEX, OPT_INDEX, OPT_SELECT};
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};

use super::Facts;
use crate::layout::{Catalog, is_own};

/// What an expression reads.
#[derive(Debug, Default)]
pub(crate) struct Mentions {
    /// It may read anything.
    all: bool,
    /// Attributes, qualified.
    attributes: BTreeSet<String>,
    /// Whether it reads capacities.
    capacity: bool,
    /// Texts that stand where a domain may.
    pub(crate) domains: BTreeSet<String>,
}

impl Mentions {
    /// What `expression` reads.
    pub(crate) fn of(expression: &IdedExpr) -> Self {
        let mut mentions = Self::default();
        mentions.walk(&expression.expr);
        mentions
    }

    /// Whether any of it differs between pools of one layout.
    pub(crate) fn reads_own(&self) -> bool {
        self.all || self.attributes.iter().any(|name| is_own(name))
    }

    /// What the expression's result for a device depends on.
    pub(crate) fn key(&self, catalog: &Catalog, facts: Facts<'_>) -> Box<[u32]> {
        let form = facts.layout.form(facts.device);
        let mut key = vec![u32::from(form.is_some_and(|f| f.shareable))];
        if self.all || self.capacity {
            key.push(form.map_or(u32::MAX, |f| f.capacity));
        }
        if self.all {
            key.push(form.map_or(u32::MAX, |f| f.attributes));
            key.push(facts.own.get(facts.device).copied().unwrap_or(u32::MAX));
            return key.into();
        }
        for name in &self.attributes {
            let name = catalog.texts.find(name);
            let value = name.and_then(|n| catalog.attribute(facts.layout, facts.own, facts.device, n));
            key.push(value.unwrap_or(u32::MAX));
        }
        key.into()
    }

    fn walk(&mut self, expr: &Expr) {
        if let Some((map, domain, field)) = field_of_domain(expr) {
            if map == "attributes" {
                self.attributes.insert(format!("{domain}/{field}"));
            } else {
                self.capacity = true;
            }
            self.domains.insert(domain.to_owned());
            return;
        }
        match expr {
            Expr::Ident(name) => self.all |= name == "device",
            Expr::Select(select) if is_device(&select.operand.expr) => {
                self.all |= !matches!(select.field.as_str(), "driver" | "allowMultipleAllocations");
            }
            Expr::Literal(LiteralValue::String(text)) => {
                self.domains.insert(text.inner().to_owned());
            }
            _ => children(expr, &mut |child| self.walk(child)),
        }
    }
}

fn is_device(expr: &Expr) -> bool {
    matches!(expr, Expr::Ident(name) if name == "device")
}

fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// `device.attributes["domain"].field` and its optional forms, as (map, domain, field).
fn field_of_domain(expr: &Expr) -> Option<(&str, &str, &str)> {
    let (operand, field) = match expr {
        Expr::Select(select) => (&select.operand.expr, select.field.as_str()),
        Expr::Call(call) if matches!(call.func_name.as_str(), OPT_SELECT | INDEX | OPT_INDEX) => {
            let [operand, field] = call.args.as_slice() else { return None };
            (&operand.expr, literal(&field.expr)?)
        }
        _ => return None,
    };
    let Expr::Call(index) = operand else { return None };
    let [map, domain] = index.args.as_slice() else { return None };
    let domain = literal(&domain.expr)?;
    let Expr::Select(select) = &map.expr else { return None };
    let indexed = matches!(index.func_name.as_str(), INDEX | OPT_INDEX);
    let known = matches!(select.field.as_str(), "attributes" | "capacity");
    (indexed && known && is_device(&select.operand.expr)).then_some((select.field.as_str(), domain, field))
}

fn children<'a>(expr: &'a Expr, visit: &mut dyn FnMut(&'a Expr)) {
    match expr {
        Expr::Call(call) => {
            call.target.iter().for_each(|target| visit(&target.expr));
            call.args.iter().for_each(|arg| visit(&arg.expr));
        }
        Expr::Comprehension(c) => {
            for part in [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result] {
                visit(&part.expr);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(|e| visit(&e.expr)),
        Expr::Map(map) => map.entries.iter().for_each(|e| entry(&e.expr, visit)),
        Expr::Struct(s) => s.entries.iter().for_each(|e| entry(&e.expr, visit)),
        Expr::Select(select) => visit(&select.operand.expr),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

fn entry<'a>(entry: &'a EntryExpr, visit: &mut dyn FnMut(&'a Expr)) {
    match entry {
        EntryExpr::StructField(field) => visit(&field.value.expr),
        EntryExpr::MapEntry(pair) => {
            visit(&pair.key.expr);
            visit(&pair.value.expr);
        }
    }
}
