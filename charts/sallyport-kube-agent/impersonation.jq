# Of what `tctl get roles --format=json` prints, the value `impersonation`: the names that an agent has to act as.
# An empty list allows all names, and stands where they can't be known.
def known: if any(.[]; test("{{|[*]")) then [] else unique end;
[.[].spec.allow // {}] as $allow
| [$allow[].kubernetes_groups[]?] as $groups
| [$allow[].kubernetes_users[]?] as $users
| {impersonation: {
    groups: ($groups | known),
    users: (if any($allow[]; (.kubernetes_groups // [] | length) > 0 and (.kubernetes_users // [] | length) == 0) then [] else $users | known end)
  }}
