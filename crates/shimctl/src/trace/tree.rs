// SPDX-License-Identifier: Apache-2.0
//! Spans as operations: each a tree of what it consisted of.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use diagnostics::v1::Span;

/// A span and how deep it is.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    /// Its own if it stands for several.
    pub(crate) span: Cow<'a, Span>,
    pub(crate) depth: usize,
    /// Time that is not in one of its children.
    pub(crate) own_ns: u64,
    /// The names of the short ones that it stands for, if it does.
    pub(crate) gathered: String,
}

/// Neighbours that took less than this part of their operation are shown as one.
const SHORT: u64 = 100;

/// A call, or something that the shim did by itself, with all its parts in the order in which they
/// began: parents before children.
#[derive(Debug, Clone)]
pub(crate) struct Operation<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
}

impl Operation<'_> {
    /// The same with neighbours that took next to nothing as one: init has dozens of steps, and a
    /// person looks for those that took time. No time is lost.
    pub(crate) fn without_short(&self) -> Self {
        let (begin, finish) = self.extent();
        let short = (finish - begin) / SHORT;
        let mut nodes: Vec<Node<'_>> = Vec::new();
        let mut run: Vec<Node<'_>> = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let has_parts = self
                .nodes
                .get(index + 1)
                .is_some_and(|next| next.depth > node.depth);
            let is_short = node.depth > 0
                && !has_parts
                && !node.span.failed
                && node.span.number != 0
                && node.span.duration_ns < short;
            if run
                .first()
                .is_some_and(|first| !is_short || first.depth != node.depth)
            {
                nodes.extend(gather(std::mem::take(&mut run)));
            }
            match is_short {
                true => run.push(node.clone()),
                false => nodes.push(node.clone()),
            }
        }
        nodes.extend(gather(run));
        Self { nodes }
    }

    /// Begin and end, of all parts.
    pub(crate) fn extent(&self) -> (u64, u64) {
        let begin = self.nodes.iter().map(|n| n.span.start_mono_ns).min();
        let end = self.nodes.iter().map(|n| end(&n.span)).max();
        (begin.unwrap_or(0), end.unwrap_or(0))
    }
}

/// One node for a run of short ones.
fn gather(mut run: Vec<Node<'_>>) -> Option<Node<'_>> {
    if run.len() < 2 {
        return run.pop();
    }
    let names: Vec<&str> = run.iter().map(|node| node.span.name.as_str()).collect();
    let gathered = names.join(", ");
    let mut span = run[0].span.clone().into_owned();
    span.name = format!("{} short steps", run.len());
    span.duration_ns = run.iter().map(|node| node.span.duration_ns).sum();
    Some(Node {
        own_ns: span.duration_ns,
        span: Cow::Owned(span),
        depth: run[0].depth,
        gathered,
    })
}

/// When a span ended.
pub(crate) fn end(span: &Span) -> u64 {
    span.start_mono_ns.saturating_add(span.duration_ns)
}

/// Sorts spans into operations. A span whose parent is not kept any more begins one.
pub(crate) fn operations(spans: &[Span]) -> Vec<Operation<'_>> {
    let known: HashSet<u64> = spans.iter().map(|span| span.id).collect();
    let mut children: BTreeMap<u64, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        let parent = match span.parent {
            parent if parent != span.id && known.contains(&parent) => parent,
            _ => 0,
        };
        children.entry(parent).or_default().push(span);
    }
    for list in children.values_mut() {
        list.sort_by_key(|span| {
            (
                span.start_mono_ns,
                std::cmp::Reverse(span.duration_ns),
                span.id,
            )
        });
    }
    let roots = children.get(&0).cloned().unwrap_or_default();
    roots
        .into_iter()
        .map(|root| {
            let mut nodes = Vec::new();
            let mut seen = HashSet::new();
            descend(root, 0, &children, &mut nodes, &mut seen);
            Operation { nodes }
        })
        .collect()
}

fn descend<'a>(
    span: &'a Span,
    depth: usize,
    children: &BTreeMap<u64, Vec<&'a Span>>,
    nodes: &mut Vec<Node<'a>>,
    seen: &mut HashSet<u64>,
) {
    // What a shim says may be wrong: no cycle, no depth without end.
    if !seen.insert(span.id) || depth > 32 {
        return;
    }
    let own = children.get(&span.id).map_or(&[][..], Vec::as_slice);
    nodes.push(Node {
        span: Cow::Borrowed(span),
        depth,
        own_ns: span.duration_ns.saturating_sub(covered(span, own)),
        gathered: String::new(),
    });
    for child in own {
        descend(child, depth + 1, children, nodes, seen);
    }
}

/// How much of a span its children cover; they may overlap.
fn covered(span: &Span, children: &[&Span]) -> u64 {
    let mut covered = 0;
    let mut reached = span.start_mono_ns;
    for child in children {
        let begin = child.start_mono_ns.max(reached);
        let finish = end(child).min(end(span));
        if finish > begin {
            covered += finish - begin;
            reached = finish;
        }
    }
    covered
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn span(id: u64, parent: u64, name: &str, start_us: u64, us: u64) -> Span {
        Span {
            number: id,
            id,
            parent,
            name: name.into(),
            start_mono_ns: 1_000_000_000 + start_us * 1000,
            duration_ns: us * 1000,
            container: "c1".into(),
            ..Span::new()
        }
    }

    pub(crate) fn life() -> Vec<Span> {
        let mut failed = span(8, 0, "exec", 60_000_000, 400);
        failed.exec = "probe".into();
        failed.failed = true;
        failed.code = 2;
        vec![
            span(2, 1, "load-spec", 50, 150),
            span(3, 1, "clone-init", 250, 700),
            span(5, 4, "mounts", 1100, 2000),
            span(4, 1, "init", 1000, 2800),
            span(1, 0, "create", 0, 4000),
            span(6, 0, "start", 5000, 1000),
            span(7, 6, "exec-wait", 5100, 800),
            failed,
        ]
    }

    #[test]
    fn operations_are_trees_in_the_order_of_time() {
        let spans = life();
        let operations = operations(&spans);
        let shape: Vec<Vec<(&str, usize)>> = operations
            .iter()
            .map(|o| {
                o.nodes
                    .iter()
                    .map(|n| (n.span.name.as_str(), n.depth))
                    .collect()
            })
            .collect();
        assert_eq!(
            shape,
            [
                vec![
                    ("create", 0),
                    ("load-spec", 1),
                    ("clone-init", 1),
                    ("init", 1),
                    ("mounts", 2)
                ],
                vec![("start", 0), ("exec-wait", 1)],
                vec![("exec", 0)],
            ]
        );
        assert_eq!(operations[0].nodes[0].own_ns, 350_000);
        assert_eq!(operations[0].nodes[3].own_ns, 800_000);
        assert_eq!(operations[0].extent(), (1_000_000_000, 1_004_000_000));
    }

    #[test]
    fn own_times_add_up_to_the_whole() {
        let spans = life();
        for operation in operations(&spans) {
            let sum: u64 = operation.nodes.iter().map(|node| node.own_ns).sum();
            assert_eq!(sum, operation.nodes[0].span.duration_ns);
        }
    }

    #[test]
    fn short_neighbours_are_one_and_no_time_is_lost() {
        let spans = [
            span(1, 0, "create", 0, 10_000),
            span(2, 1, "init", 0, 9_000),
            span(3, 2, "a", 0, 5),
            span(4, 2, "b", 10, 7),
            span(5, 2, "mounts", 20, 5_000),
            span(6, 2, "c", 5_020, 9),
            span(7, 1, "d", 9_000, 8),
        ];
        let whole = &operations(&spans)[0];
        let short = whole.without_short();
        let names: Vec<&str> = short.nodes.iter().map(|n| n.span.name.as_str()).collect();
        assert_eq!(
            names,
            ["create", "init", "2 short steps", "mounts", "c", "d"]
        );
        assert_eq!(short.nodes[2].gathered, "a, b");
        let sum = |o: &Operation<'_>| o.nodes.iter().map(|n| n.own_ns).sum::<u64>();
        assert_eq!((sum(&short), sum(whole)), (10_000_000, 10_000_000));
    }

    #[test]
    fn cycles_and_lost_parents_are_no_trouble() {
        let spans = [
            span(1, 2, "a", 0, 1),
            span(2, 1, "b", 0, 1),
            span(3, 9, "c", 5, 1),
            span(4, 4, "d", 6, 1),
        ];
        let names: Vec<_> = operations(&spans)
            .iter()
            .map(|o| o.nodes[0].span.name.clone())
            .collect();
        assert_eq!(names, ["c", "d"]);
    }
}
