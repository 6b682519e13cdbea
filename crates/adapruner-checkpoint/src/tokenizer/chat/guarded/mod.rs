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

mod expressions;

use minijinja::{
    Error,
    machinery::{
        Span,
        ast::{self, Expr, Stmt},
        parse,
    },
    syntax::SyntaxConfig,
};

/// The filter that every container passes when it is made.
pub(super) const BOUNDED: &str = "__bounded";
/// The filter that everything passes that is assigned to a namespace's field.
pub(super) const STORED: &str = "__stored";
/// The filter that is Python's `%`.
pub(super) const PERCENT: &str = "__percent";

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
    if let Expr::GetAttr(access) = target {
        found.push(&access.expr);
    } else if let Expr::List(several) = target {
        several.items.iter().for_each(|one| namespaces(one, found));
    }
}
