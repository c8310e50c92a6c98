//! Checks a parsed expression, and translates it.

use std::cell::Cell;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr, ListExpr, LiteralValue, SourceInfo, operators},
};

use super::{Fault, MOST_NODES, Scope, names::Named};
use enforcer_model::condition::{Constant, Node, Order};

/// What is known of a value before there is a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Float,
    Text,
    Address,
    Null,
    /// A list of texts.
    Texts,
    /// Any other list.
    List,
    /// A claim, which may be of any type.
    Dynamic,
}

pub(super) struct Checker<'a> {
    pub(super) scope: Scope,
    text: &'a str,
    places: &'a SourceInfo,
    nodes: Cell<usize>,
}

/// A part with its type.
pub(super) type Typed = (Node, Type);

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "a truth value",
            Self::Int => "a whole number",
            Self::Float => "a number with a fraction",
            Self::Text => "a text",
            Self::Address => "an address",
            Self::Null => "null",
            Self::Texts | Self::List => "a list",
            Self::Dynamic => "a claim",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Float | Self::Dynamic)
    }

    /// Whether a value of this type can be one of `wanted`.
    fn may_be(self, wanted: Self) -> bool {
        self == wanted || self == Self::Dynamic
    }

    /// Whether values of both types can be equal.
    fn compares(self, other: Self) -> bool {
        let is_list = |kind| matches!(kind, Self::Texts | Self::List);
        if is_list(self) || is_list(other) {
            return false;
        }
        let dynamic = self == Self::Dynamic || other == Self::Dynamic;
        let addresses = self == Self::Address || other == Self::Address;
        self == other || (self.is_number() && other.is_number()) || (dynamic && !addresses)
    }
}

impl<'a> Checker<'a> {
    pub(super) fn new(text: &'a str, scope: Scope, places: &'a SourceInfo) -> Self {
        Self {
            scope,
            text,
            places,
            nodes: Cell::new(0),
        }
    }

    /// The whole expression, which says yes or no.
    pub(super) fn condition(&self, expression: &IdedExpr) -> Result<Node, Fault> {
        self.of_type(expression, Type::Bool)
    }

    /// Where it stands, in characters.
    pub(super) fn offset(&self, expression: &IdedExpr) -> usize {
        let start = self
            .places
            .offset_for(expression.id)
            .map_or(0, |(start, _)| start);
        let bytes = usize::try_from(start).unwrap_or(0);
        self.text.char_indices().take_while(|(at, _)| *at < bytes).count()
    }

    fn fault(&self, expression: &IdedExpr, message: impl Into<String>) -> Fault {
        Fault::new(self.offset(expression), message)
    }

    /// A part that can be of the type.
    pub(super) fn of_type(&self, expression: &IdedExpr, wanted: Type) -> Result<Node, Fault> {
        let (node, found) = self.check(expression)?;
        if found.may_be(wanted) {
            return Ok(node);
        }
        let message = format!("expected {}, and this is {}", wanted.name(), found.name());
        Err(self.fault(expression, message))
    }

    pub(super) fn check(&self, expression: &IdedExpr) -> Result<Typed, Fault> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() > MOST_NODES {
            return Err(self.fault(
                expression,
                format!("the condition has more than {MOST_NODES} parts"),
            ));
        }
        match self.named(expression)? {
            Some(Named::Place(place, kind)) => return Ok((Node::At(place), kind)),
            Some(Named::Map(_)) => {
                return Err(self
                    .fault(expression, "this is no value")
                    .with_hint("name one member, like request.headers[\"x-name\"] or token.claims.email"));
            }
            None => {}
        }
        match &expression.expr {
            Expr::Literal(literal) => self.literal(expression, literal).map(|constant| {
                let kind = kind(&constant);
                (Node::Constant(constant), kind)
            }),
            Expr::List(list) => self.list(list),
            Expr::Select(select) if select.test => self.presence(expression, &select.operand, &select.field),
            Expr::Call(call) => self.call(expression, call),
            Expr::Comprehension(_) => Err(self
                .fault(expression, "macros that go through lists are not supported")
                .with_hint("write `x in list`, or a claim of `require.token.claims`")),
            Expr::Map(_) | Expr::Struct(_) => Err(self.fault(expression, "maps cannot be written here")),
            Expr::Select(_) => Err(self.fault(expression, "this has no members")),
            Expr::Ident(_) | Expr::Unspecified => Err(self.fault(expression, "this is not understood")),
        }
    }

    fn literal(&self, expression: &IdedExpr, literal: &LiteralValue) -> Result<Constant, Fault> {
        match literal {
            LiteralValue::Boolean(value) => Ok(Constant::Bool(*value.inner())),
            LiteralValue::Int(value) => Ok(Constant::Int(*value.inner())),
            LiteralValue::UInt(value) => i64::try_from(*value.inner())
                .map(Constant::Int)
                .map_err(|_| self.fault(expression, "the number is too large")),
            LiteralValue::Double(value) => Ok(Constant::Float(*value.inner())),
            LiteralValue::String(text) => Ok(Constant::Text(text.inner().into())),
            LiteralValue::Null => Ok(Constant::Null),
            LiteralValue::Bytes(_) => Err(self.fault(expression, "bytes are not supported")),
        }
    }

    fn list(&self, list: &ListExpr) -> Result<Typed, Fault> {
        let element = |each: &IdedExpr| match &each.expr {
            Expr::Literal(literal) => self.literal(each, literal),
            _ => Err(self.fault(each, "elements of a list are literals here")),
        };
        let elements: Vec<_> = list.elements.iter().map(element).collect::<Result<_, _>>()?;
        self.nodes.set(self.nodes.get() + elements.len());
        let all_texts = elements.iter().all(|each| matches!(each, Constant::Text(_)));
        let kind = if all_texts { Type::Texts } else { Type::List };
        Ok((Node::List(elements.into()), kind))
    }

    /// `has(operand.field)`.
    fn presence(&self, expression: &IdedExpr, operand: &IdedExpr, field: &str) -> Result<Typed, Fault> {
        let select = Expr::Select(cel::common::ast::SelectExpr {
            operand: Box::new(operand.clone()),
            field: field.to_owned(),
            test: false,
        });
        let whole = IdedExpr {
            id: expression.id,
            expr: select,
        };
        match self.named(&whole)? {
            Some(Named::Place(place, _)) => Ok((Node::Has(place), Type::Bool)),
            Some(Named::Map(_)) => Err(self.fault(expression, "this is always there")),
            None => Err(self.fault(
                expression,
                "has() is asked of a name, like has(token.claims.email)",
            )),
        }
    }

    fn call(&self, expression: &IdedExpr, call: &CallExpr) -> Result<Typed, Fault> {
        let two = |kind| -> Result<Box<[Node; 2]>, Fault> {
            let [left, right] = self.operands(expression, call)?;
            Ok(Box::new([self.of_type(left, kind)?, self.of_type(right, kind)?]))
        };
        let node = match call.func_name.as_str() {
            operators::LOGICAL_AND => Node::And(two(Type::Bool)?),
            operators::LOGICAL_OR => Node::Or(two(Type::Bool)?),
            operators::LOGICAL_NOT => {
                let [operand] = self.operands(expression, call)?;
                Node::Not(Box::new(self.of_type(operand, Type::Bool)?))
            }
            operators::EQUALS => Node::Equal(self.equals(expression, call)?),
            operators::NOT_EQUALS => Node::Not(Box::new(Node::Equal(self.equals(expression, call)?))),
            operators::LESS => Node::Ordered(Order::Less, self.ordered(expression, call)?),
            operators::LESS_EQUALS => Node::Ordered(Order::LessOrEqual, self.ordered(expression, call)?),
            operators::GREATER => Node::Ordered(Order::Greater, self.ordered(expression, call)?),
            operators::GREATER_EQUALS => {
                Node::Ordered(Order::GreaterOrEqual, self.ordered(expression, call)?)
            }
            operators::IN => self.membership(expression, call)?,
            operators::CONDITIONAL => return self.choice(expression, call),
            _ => return self.function(expression, call),
        };
        Ok((self.spelled(expression, node)?, Type::Bool))
    }

    /// So many operands as an operator has.
    pub(super) fn operands<'b, const N: usize>(
        &self,
        expression: &IdedExpr,
        call: &'b CallExpr,
    ) -> Result<&'b [IdedExpr; N], Fault> {
        <&[IdedExpr; N]>::try_from(&call.args[..]).map_err(|_| {
            self.fault(
                expression,
                format!("expected {N} arguments, found {}", call.args.len()),
            )
        })
    }

    fn equals(&self, expression: &IdedExpr, call: &CallExpr) -> Result<Box<[Node; 2]>, Fault> {
        let [left, right] = self.operands(expression, call)?;
        let ((one, one_kind), (other, other_kind)) = (self.check(left)?, self.check(right)?);
        if one_kind.compares(other_kind) {
            return Ok(Box::new([one, other]));
        }
        let message = format!("{} is never equal to {}", one_kind.name(), other_kind.name());
        Err(self.fault(expression, message))
    }

    fn ordered(&self, expression: &IdedExpr, call: &CallExpr) -> Result<Box<[Node; 2]>, Fault> {
        let [left, right] = self.operands(expression, call)?;
        let ((one, one_kind), (other, other_kind)) = (self.check(left)?, self.check(right)?);
        let texts = one_kind.may_be(Type::Text) && other_kind.may_be(Type::Text);
        if texts || (one_kind.is_number() && other_kind.is_number()) {
            return Ok(Box::new([one, other]));
        }
        let message = format!("{} and {} have no order", one_kind.name(), other_kind.name());
        Err(self.fault(expression, message))
    }

    fn membership(&self, expression: &IdedExpr, call: &CallExpr) -> Result<Node, Fault> {
        let [element, list] = self.operands(expression, call)?;
        if let Some(Named::Map(map)) = self.named(list)? {
            let key = self.key(element)?;
            return self.place_in(map, &key).map(Node::Has);
        }
        let ((list_node, list_kind), (node, kind)) = (self.check(list)?, self.check(element)?);
        match list_kind {
            Type::Texts if !kind.may_be(Type::Text) => {
                let message = format!("{} is never in a list of texts", kind.name());
                Err(self.fault(expression, message))
            }
            Type::Texts | Type::List | Type::Dynamic => match kind {
                Type::Texts | Type::List | Type::Address => {
                    Err(self.fault(element, format!("{} is in no list", kind.name())))
                }
                _ => Ok(Node::In(Box::new([node, list_node]))),
            },
            other => Err(self.fault(list, format!("expected a list, and this is {}", other.name()))),
        }
    }

    fn choice(&self, expression: &IdedExpr, call: &CallExpr) -> Result<Typed, Fault> {
        let [question, yes, no] = self.operands(expression, call)?;
        let question = self.of_type(question, Type::Bool)?;
        let ((yes, yes_kind), (no, no_kind)) = (self.check(yes)?, self.check(no)?);
        let kind = match (yes_kind, no_kind) {
            (one, other) if one == other => one,
            (Type::Dynamic, _) | (_, Type::Dynamic) => Type::Dynamic,
            (one, other) => {
                let message = format!("one branch is {}, the other {}", one.name(), other.name());
                return Err(self.fault(expression, message));
            }
        };
        Ok((Node::If(Box::new([question, yes, no])), kind))
    }

    pub(super) fn refuse<T>(&self, expression: &IdedExpr, message: impl Into<String>) -> Result<T, Fault> {
        Err(self.fault(expression, message))
    }
}

fn kind(constant: &Constant) -> Type {
    match constant {
        Constant::Bool(_) => Type::Bool,
        Constant::Int(_) => Type::Int,
        Constant::Float(_) => Type::Float,
        Constant::Text(_) => Type::Text,
        Constant::Address(_) => Type::Address,
        Constant::Null => Type::Null,
    }
}
