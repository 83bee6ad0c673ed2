axe.run(document, {
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
  resultTypes: ['violations'],
  preload: false, // it would fetch style sheets of other origins; there are none
}).then((r) => r.violations.map((v) => ({
  id: v.id, impact: v.impact || 'minor', help: v.help,
  nodes: v.nodes.map((n) => n.target.join(' ') + ': ' + (n.failureSummary || '').split('\n').slice(1).join(';').trim()),
})))
