//! Templates as they are run: printed again from their syntax tree, with a
//! bound around every expression that makes a container.
//!
//! Jinja has values that hold each other, lists that hold the same list twice,
//! and operators that write any of them out. The engine's fuel counts what is
//! made, not how deep it is or how long it gets when written. So every list,
//! map or sum passes [`BOUNDED`], which refuses what is too deep or too large,
//! and what a namespace holds passes [`STORED`], which refuses namespaces in
//! namespaces: values are trees of bounded size. `%` becomes [`PERCENT`],
//! because the engine knows it for numbers alone.
//!
//! Tags are printed on the lines on which they stand in the source.

use std::mem::discriminant;

use minijinja::{
    Error, Value,
    machinery::{
        Span,
        ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, Stmt, UnaryOpKind},
        parse,
    },
    syntax::SyntaxConfig,
    value::ValueKind,
};

/// The filter that every container passes when it is made.
pub(super) const BOUNDED: &str = "__bounded";
/// The filter that everything passes that is assigned to a namespace's field.
pub(super) const STORED: &str = "__stored";
/// The filter that is Python's `%`.
pub(super) const PERCENT: &str = "__percent";

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

/// The source of the guarded template.
///
/// # Errors
/// A source that is no template; with its line.
pub(super) fn guarded(name: &str, source: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let tree = parse(source, name, syntax)?;
    let mut printer =
        Printer { out: String::with_capacity(2 * source.len()), line: 1, escapes: false };
    printer.statement(&tree);
    Ok(printer.out)
}

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

struct Printer {
    out: String,
    /// The line at the end of `out`.
    line: usize,
    /// Whether expressions may be escaped, which plain text is not.
    escapes: bool,
}

impl Printer {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// The beginning of a tag that stands at `span` in the source.
    fn open(&mut self, bracket: &str, span: Span) {
        self.put(bracket);
        let start = usize::from(span.start_line);
        while self.line < start {
            self.out.push('\n');
            self.line += 1;
        }
        self.put(" ");
    }

    fn tag(&mut self, text: &str) {
        self.put("{% ");
        self.put(text);
        self.put(" %}");
    }

    fn statements(&mut self, all: &[Stmt<'_>]) {
        all.iter().for_each(|one| self.statement(one));
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => {
                self.put("{{ ");
                self.string(raw.raw);
                self.put(if self.escapes { "|safe }}" } else { " }}" });
            }
            Stmt::EmitExpr(emit) => {
                self.open("{{", emit.span());
                self.expression(&emit.expr);
                self.put(" }}");
            }
            Stmt::ForLoop(each) => {
                self.open("{%", each.span());
                self.put("for ");
                self.target(&each.target);
                self.put(" in ");
                self.operand(&each.iter);
                if let Some(filter) = &each.filter_expr {
                    self.put(" if ");
                    self.operand(filter);
                }
                self.put(if each.recursive { " recursive %}" } else { " %}" });
                self.statements(&each.body);
                if !each.else_body.is_empty() {
                    self.tag("else");
                    self.statements(&each.else_body);
                }
                self.tag("endfor");
            }
            Stmt::IfCond(condition) => self.condition(condition),
            Stmt::WithBlock(with) => {
                self.open("{%", with.span());
                self.put("with ");
                for (at, (target, value)) in with.assignments.iter().enumerate() {
                    self.put(if at > 0 { ", " } else { "" });
                    let several = matches!(target, Expr::List(_));
                    self.put(if several { "(" } else { "" });
                    self.target(target);
                    self.put(if several { ")" } else { "" });
                    self.put(" = ");
                    self.expression(value);
                }
                self.put(" %}");
                self.statements(&with.body);
                self.tag("endwith");
            }
            Stmt::Set(set) => {
                self.open("{%", set.span());
                self.put("set ");
                self.target(&set.target);
                self.put(" = ");
                let mut holders = Vec::new();
                namespaces(&set.target, &mut holders);
                if holders.is_empty() {
                    self.expression(&set.expr);
                } else {
                    self.operand(&set.expr);
                }
                for holder in holders {
                    self.put("|");
                    self.put(STORED);
                    self.put("(");
                    self.expression(holder);
                    self.put(")");
                }
                self.put(" %}");
            }
            Stmt::SetBlock(set) => {
                self.open("{%", set.span());
                self.put("set ");
                self.target(&set.target);
                if let Some(filter) = &set.filter {
                    self.put("|");
                    self.expression(filter);
                }
                self.put(" %}");
                self.statements(&set.body);
                self.tag("endset");
            }
            Stmt::AutoEscape(escape) => {
                self.open("{%", escape.span());
                self.put("autoescape ");
                self.expression(&escape.enabled);
                self.put(" %}");
                let around = std::mem::replace(&mut self.escapes, true);
                self.statements(&escape.body);
                self.escapes = around;
                self.tag("endautoescape");
            }
            Stmt::FilterBlock(block) => {
                self.open("{%", block.span());
                self.put("filter ");
                self.expression(&block.filter);
                self.put(" %}");
                self.statements(&block.body);
                self.tag("endfilter");
            }
            Stmt::Macro(defined) => {
                self.open("{%", defined.span());
                self.put("macro ");
                self.put(defined.name);
                self.parameters(defined);
                self.put(" %}");
                self.statements(&defined.body);
                self.tag("endmacro");
            }
            Stmt::CallBlock(block) => {
                self.open("{%", block.span());
                self.put("call");
                if !block.macro_decl.args.is_empty() {
                    self.parameters(&block.macro_decl);
                }
                self.put(" ");
                self.call(&block.call);
                self.put(" %}");
                self.statements(&block.macro_decl.body);
                self.tag("endcall");
            }
            Stmt::Do(run) => {
                self.open("{%", run.span());
                self.put("do ");
                self.call(&run.call);
                self.put(" %}");
            }
            Stmt::Continue(_) => self.tag("continue"),
            Stmt::Break(_) => self.tag("break"),
        }
    }

    fn condition(&mut self, first: &ast::Spanned<ast::IfCond<'_>>) {
        let (mut branch, mut keyword) = (first, "if ");
        loop {
            self.open("{%", branch.span());
            self.put(keyword);
            self.expression(&branch.expr);
            self.put(" %}");
            self.statements(&branch.true_body);
            match branch.false_body.as_slice() {
                [] => break,
                [Stmt::IfCond(next)] => (branch, keyword) = (next, "elif "),
                body => {
                    self.tag("else");
                    self.statements(body);
                    break;
                }
            }
        }
        self.tag("endif");
    }

    fn parameters(&mut self, defined: &ast::Macro<'_>) {
        self.put("(");
        let plain = defined.args.len() - defined.defaults.len();
        for (at, parameter) in defined.args.iter().enumerate() {
            self.put(if at > 0 { ", " } else { "" });
            self.target(parameter);
            if let Some(default) = at.checked_sub(plain).and_then(|at| defined.defaults.get(at)) {
                self.put("=");
                self.expression(default);
            }
        }
        self.put(")");
    }

    /// What is assigned to: a name, a field of a namespace, or several.
    fn target(&mut self, target: &Expr<'_>) {
        let Expr::List(several) = target else { return self.plain(target) };
        for (at, one) in several.items.iter().enumerate() {
            self.put(if at > 0 { ", " } else { "" });
            let nested = matches!(one, Expr::List(_));
            self.put(if nested { "(" } else { "" });
            self.target(one);
            self.put(if nested { ")" } else { "" });
        }
        if several.items.len() == 1 {
            self.put(",");
        }
    }

    /// An expression, bounded where it makes a container.
    fn expression(&mut self, expr: &Expr<'_>) {
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
    fn operand(&mut self, expr: &Expr<'_>) {
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
    fn plain(&mut self, expr: &Expr<'_>) {
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
                    match other {
                        Expr::IfExpr(_) => self.expression(other),
                        _ => self.operand(other),
                    }
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
        match left {
            Expr::BinOp(before)
                if discriminant(&before.op) == discriminant(op) && is_chained(*op) =>
            {
                self.binary(before);
            }
            _ => self.operand(left),
        }
        self.put(operator(*op));
        self.operand(right);
    }

    fn call(&mut self, call: &ast::Call<'_>) {
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

    /// A string literal without line ends, so that lines stay what they are.
    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                '\n' => self.put("\\n"),
                '\r' => self.put("\\r"),
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }
}

/// The namespaces that an assignment changes.
fn namespaces<'t, 'a>(target: &'t Expr<'a>, found: &mut Vec<&'t Expr<'a>>) {
    match target {
        Expr::GetAttr(access) => found.push(&access.expr),
        Expr::List(several) => several.items.iter().for_each(|one| namespaces(one, found)),
        _ => {}
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
