//! Finds the row of a request. Built from the table; a path that is not in it cannot be reached.

use super::route::{Door, Route, Verb};

struct Node {
    /// Index into `routes` for each verb that the path has.
    rows: Vec<usize>,
}

/// The table, made fast.
pub(super) struct Router {
    routes: &'static [Route],
    tree: matchit::Router<usize>,
    nodes: Vec<Node>,
}

/// What was found.
pub(super) enum Found {
    /// A row, its index, and the parameters of its path.
    Row(&'static Route, usize, Vec<(&'static str, String)>),
    /// The path exists, the method does not; these do.
    OtherMethods(String),
    /// No such path.
    Nothing,
}

impl Router {
    /// # Errors
    /// When two rows contradict each other.
    pub fn new(routes: &'static [Route], door: Door) -> Result<Self, String> {
        let mut paths: Vec<(&'static str, Node)> = Vec::new();
        for (i, route) in routes.iter().enumerate().filter(|(_, r)| r.door == door) {
            match paths.iter_mut().find(|(path, _)| *path == route.path) {
                Some((_, node)) => node.rows.push(i),
                None => paths.push((route.path, Node { rows: vec![i] })),
            }
        }
        let mut tree = matchit::Router::new();
        let mut nodes = Vec::new();
        for (path, node) in paths {
            tree.insert(path, nodes.len()).map_err(|e| format!("route {path}: {e}"))?;
            nodes.push(node);
        }
        Ok(Self { routes, tree, nodes })
    }

    /// Finds the row for a method and a path. `/api/v1/...` is `/v1/...`; HEAD is GET.
    pub fn find(&self, method: &str, path: &str) -> Found {
        let path = match path.strip_prefix("/api") {
            Some(rest) if rest.starts_with("/v1/") => rest,
            _ => path,
        };
        let Ok(matched) = self.tree.at(path) else { return Found::Nothing };
        let Some(node) = self.nodes.get(*matched.value) else { return Found::Nothing };
        let wanted = if method == "HEAD" { "GET" } else { method };
        let mut row = node.rows.iter().filter_map(|i| Some((*i, self.routes.get(*i)?)));
        let Some((index, route)) = row.find(|(_, r)| r.verb.method() == wanted) else {
            let mut allowed: Vec<&str> = Vec::new();
            for verb in node.rows.iter().filter_map(|i| self.routes.get(*i)).map(|r| r.verb) {
                allowed.push(verb.method());
                if verb == Verb::Get {
                    allowed.push("HEAD");
                }
            }
            return Found::OtherMethods(allowed.join(", "));
        };
        let params = matched
            .params
            .iter()
            .filter_map(|(name, value)| Some((name_in(route.path, name)?, super::params::decode(value)?)))
            .collect();
        Found::Row(route, index, params)
    }
}

/// The parameter's name as it stands in the table, which lives for ever.
fn name_in(path: &'static str, name: &str) -> Option<&'static str> {
    path.split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
        .map(|s| s.trim_start_matches('*'))
        .find(|s| *s == name)
}
