//! Expressions of a guarded template.

use std::mem::discriminant;

use minijinja::{
    Value,
    machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind},
    value::ValueKind,
};

use super::{BOUNDED, PERCENT, Printer};

/// Filters whose result is no new container.
const PLAIN_FILTERS: &[&str] = &[
    "abs",
    "attr",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "lower",
    "replace",
    "round",
    "safe",
    "string",
    "title",
    "tojson",
    "trim",
    "upper",
];

/// Filters that compare the items of their input.
const COMPARING_FILTERS: &[&str] = &[
    "dictsort",
    "groupby",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "sort",
    "sum",
    "unique",
];

/// How tightly an expression holds together when printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// A name, a literal, an access or a call.
    Atom,
    /// An atom with filters.
    Filtered,
    /// Everything else.
    Loose,
}

impl Printer {
    /// An expression, bounded where it makes a container.
    pub(super) fn expression(&mut self, expr: &Expr<'_>) {
        if makes_container(expr) { self.bounded(expr) } else { self.plain(expr) }
    }

    fn bounded(&mut self, expr: &Expr<'_>) {
        if plain_level(expr) == Level::Loose {
            self.put("(");
            self.plain(expr);
            self.put(")");
        } else {
            self.plain(expr);
        }
        self.put("|");
        self.put(BOUNDED);
    }

    /// An expression as a part of a larger one.
    pub(super) fn operand(&mut self, expr: &Expr<'_>) {
        self.part(expr, level(expr) == Level::Loose);
    }

    /// An expression of which something is taken, or that is called.
    fn base(&mut self, expr: &Expr<'_>) {
        let number = matches!(expr, Expr::Const(c) if c.value.kind() == ValueKind::Number);
        self.part(expr, number || level(expr) != Level::Atom);
    }

    fn part(&mut self, expr: &Expr<'_>, brackets: bool) {
        self.put(if brackets { "(" } else { "" });
        self.expression(expr);
        self.put(if brackets { ")" } else { "" });
    }

    /// A side of a comparison, whose whole tree may be looked at.
    fn compared(&mut self, expr: &Expr<'_>, with_constant: bool) {
        if with_constant || makes_container(expr) || matches!(expr, Expr::Const(_)) {
            self.operand(expr);
        } else {
            self.bounded(expr);
        }
    }

    /// An expression without a bound around it; its parts have theirs.
    pub(super) fn plain(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::Var(name) => self.put(name.id),
            Expr::Const(constant) => self.constant(&constant.value),
            Expr::Slice(slice) => {
                self.base(&slice.expr);
                self.put("[");
                for (at, bound) in [&slice.start, &slice.stop, &slice.step].into_iter().enumerate()
                {
                    self.put(if at > 0 { ":" } else { "" });
                    if let Some(bound) = bound {
                        self.operand(bound);
                    }
                }
                self.put("]");
            }
            Expr::UnaryOp(unary) => match unary.op {
                UnaryOpKind::Not => {
                    self.put("not ");
                    self.operand(&unary.expr);
                }
                UnaryOpKind::Neg => {
                    self.put("-");
                    self.base(&unary.expr);
                }
            },
            Expr::BinOp(binary) => self.binary(binary),
            Expr::Compare(compare) => {
                self.compared(&compare.expr, false);
                for ast::CompareOp { op, expr } in &compare.ops {
                    self.put(comparison(*op));
                    self.compared(expr, false);
                }
            }
            Expr::IfExpr(choice) => {
                self.operand(&choice.true_expr);
                self.put(" if ");
                self.operand(&choice.test_expr);
                if let Some(other) = &choice.false_expr {
                    self.put(" else ");
                    // Without brackets, however many follow each other.
                    self.part(
                        other,
                        level(other) == Level::Loose && !matches!(other, Expr::IfExpr(_)),
                    );
                }
            }
            Expr::Filter(filter) => {
                if let Some(input) = &filter.expr {
                    if COMPARING_FILTERS.contains(&filter.name) && !makes_container(input) {
                        self.bounded(input);
                    } else {
                        self.operand(input);
                    }
                    self.put("|");
                }
                self.put(filter.name);
                if !filter.args.is_empty() {
                    self.arguments(&filter.args, false);
                }
            }
            Expr::Test(test) => {
                let compares = !test.args.is_empty();
                self.compared(&test.expr, !compares);
                self.put(" is ");
                self.put(test.name);
                if compares {
                    self.arguments(&test.args, true);
                }
            }
            Expr::GetAttr(access) => {
                self.base(&access.expr);
                self.put(".");
                self.put(access.name);
            }
            Expr::GetItem(access) => {
                self.base(&access.expr);
                self.put("[");
                self.expression(&access.subscript_expr);
                self.put("]");
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                self.put("[");
                self.items(&list.items);
                self.put("]");
            }
            Expr::Tuple(tuple) => {
                self.put("(");
                self.items(&tuple.items);
                self.put(if tuple.items.len() == 1 { ",)" } else { ")" });
            }
            Expr::Map(map) => {
                self.put("{");
                for (at, (key, value)) in map.keys.iter().zip(&map.values).enumerate() {
                    self.put(if at > 0 { ", " } else { "" });
                    self.operand(key);
                    self.put(": ");
                    self.expression(value);
                }
                self.put("}");
            }
        }
    }

    fn binary(&mut self, binary: &ast::BinOp<'_>) {
        let ast::BinOp { op, left, right } = binary;
        if is_percent(binary) {
            self.operand(left);
            self.put("|");
            self.put(PERCENT);
            self.put("(");
            self.expression(right);
            return self.put(")");
        }
        if compares(*op) {
            let constant = |side: &Expr<'_>| matches!(side, Expr::Const(_));
            let one_constant = constant(left) || constant(right);
            self.compared(left, one_constant);
            self.put(operator(*op));
            return self.compared(right, one_constant);
        }
        // Links of a chain need no brackets: deep ones would not be parsed again.
        let chained = |before: &ast::BinOp<'_>| {
            discriminant(&before.op) == discriminant(op) && is_chained(*op)
        };
        if let Expr::BinOp(before) = left
            && chained(before)
        {
            self.binary(before);
        } else {
            self.operand(left);
        }
        self.put(operator(*op));
        self.operand(right);
    }

    pub(super) fn call(&mut self, call: &ast::Call<'_>) {
        self.base(&call.expr);
        self.arguments(&call.args, false);
    }

    fn arguments(&mut self, arguments: &[CallArg<'_>], compared: bool) {
        self.put("(");
        for (at, argument) in arguments.iter().enumerate() {
            self.put(if at > 0 { ", " } else { "" });
            match argument {
                CallArg::Pos(value) if compared => self.compared(value, false),
                CallArg::Pos(value) => self.expression(value),
                CallArg::Kwarg(name, value) => {
                    self.put(name);
                    self.put("=");
                    self.expression(value);
                }
                CallArg::PosSplat(values) => {
                    self.put("*");
                    self.expression(values);
                }
                CallArg::KwargSplat(values) => {
                    self.put("**");
                    self.expression(values);
                }
            }
        }
        self.put(")");
    }

    fn items(&mut self, items: &[Expr<'_>]) {
        for (at, item) in items.iter().enumerate() {
            self.put(if at > 0 { ", " } else { "" });
            self.expression(item);
        }
    }

    fn constant(&mut self, value: &Value) {
        match (value.as_str(), value.kind()) {
            (Some(text), _) => self.string(text),
            (None, ValueKind::Bool) => self.put(if value.is_true() { "true" } else { "false" }),
            (None, ValueKind::None) => self.put("none"),
            (None, _) => self.put(&value.to_string()),
        }
    }
}

/// Whether an expression's value may be a container that was not there before.
fn makes_container(expr: &Expr<'_>) -> bool {
    let constant = |items: &[Expr<'_>]| items.iter().all(|item| matches!(item, Expr::Const(_)));
    match expr {
        Expr::List(list) => !constant(&list.items),
        Expr::Tuple(tuple) => !constant(&tuple.items),
        Expr::Map(map) => !constant(&map.keys) || !constant(&map.values),
        Expr::BinOp(binary) => {
            let text =
                |side: &Expr<'_>| matches!(side, Expr::Const(c) if c.value.as_str().is_some());
            match binary.op {
                BinOpKind::Add => !text(&binary.left) && !text(&binary.right),
                BinOpKind::Mul => true,
                BinOpKind::Eq
                | BinOpKind::Ne
                | BinOpKind::Lt
                | BinOpKind::Lte
                | BinOpKind::Gt
                | BinOpKind::Gte
                | BinOpKind::ScAnd
                | BinOpKind::ScOr
                | BinOpKind::Sub
                | BinOpKind::Div
                | BinOpKind::FloorDiv
                | BinOpKind::Rem
                | BinOpKind::Pow
                | BinOpKind::Concat
                | BinOpKind::In => false,
            }
        }
        // A chain of filters without an input belongs to a block, which is text.
        Expr::Filter(filter) => filter.expr.is_some() && !PLAIN_FILTERS.contains(&filter.name),
        Expr::Call(call) => {
            matches!(&call.expr, Expr::Var(name) if matches!(name.id, "namespace" | "dict"))
        }
        Expr::Var(_)
        | Expr::Const(_)
        | Expr::Slice(_)
        | Expr::UnaryOp(_)
        | Expr::Compare(_)
        | Expr::IfExpr(_)
        | Expr::Test(_)
        | Expr::GetAttr(_)
        | Expr::GetItem(_) => false,
    }
}

/// The level of an expression as it is printed, with its bound.
fn level(expr: &Expr<'_>) -> Level {
    if makes_container(expr) { Level::Filtered } else { plain_level(expr) }
}

fn plain_level(expr: &Expr<'_>) -> Level {
    match expr {
        Expr::Var(_)
        | Expr::Const(_)
        | Expr::Slice(_)
        | Expr::GetAttr(_)
        | Expr::GetItem(_)
        | Expr::Call(_)
        | Expr::List(_)
        | Expr::Tuple(_)
        | Expr::Map(_) => Level::Atom,
        Expr::Filter(_) => Level::Filtered,
        Expr::BinOp(binary) if is_percent(binary) => Level::Filtered,
        Expr::BinOp(_) | Expr::UnaryOp(_) | Expr::Compare(_) | Expr::IfExpr(_) | Expr::Test(_) => {
            Level::Loose
        }
    }
}

/// Whether `%` may format a string: by anything but a number.
fn is_percent(binary: &ast::BinOp<'_>) -> bool {
    let number =
        |side: &Expr<'_>| matches!(side, Expr::Const(c) if c.value.kind() == ValueKind::Number);
    matches!(binary.op, BinOpKind::Rem) && !(number(&binary.right) && is_count(&binary.left))
}

/// Whether an expression is one of the loop's numbers.
fn is_count(expr: &Expr<'_>) -> bool {
    matches!(expr, Expr::GetAttr(access)
        if matches!(access.name, "index" | "index0" | "length")
            && matches!(&access.expr, Expr::Var(name) if name.id == "loop"))
}

fn compares(op: BinOpKind) -> bool {
    matches!(
        op,
        BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::In
    )
}

fn is_chained(op: BinOpKind) -> bool {
    matches!(
        op,
        BinOpKind::Add | BinOpKind::Sub | BinOpKind::Concat | BinOpKind::ScAnd | BinOpKind::ScOr
    )
}

fn operator(op: BinOpKind) -> &'static str {
    match op {
        BinOpKind::Eq => " == ",
        BinOpKind::Ne => " != ",
        BinOpKind::Lt => " < ",
        BinOpKind::Lte => " <= ",
        BinOpKind::Gt => " > ",
        BinOpKind::Gte => " >= ",
        BinOpKind::ScAnd => " and ",
        BinOpKind::ScOr => " or ",
        BinOpKind::Add => " + ",
        BinOpKind::Sub => " - ",
        BinOpKind::Mul => " * ",
        BinOpKind::Div => " / ",
        BinOpKind::FloorDiv => " // ",
        BinOpKind::Rem => " % ",
        BinOpKind::Pow => " ** ",
        BinOpKind::Concat => " ~ ",
        BinOpKind::In => " in ",
    }
}

fn comparison(op: CompareOpKind) -> &'static str {
    match op {
        CompareOpKind::Eq => " == ",
        CompareOpKind::Ne => " != ",
        CompareOpKind::Lt => " < ",
        CompareOpKind::Lte => " <= ",
        CompareOpKind::Gt => " > ",
        CompareOpKind::Gte => " >= ",
        CompareOpKind::In => " in ",
        CompareOpKind::NotIn => " not in ",
    }
}
