// What people operate and can see, each with a name that lasts: its number among all elements. Of a group of radio
// buttons Tab reaches one.
(() => {
  const all = [...document.querySelectorAll('*')];
  const groups = new Set();
  return all.filter((e) => {
    if (!e.matches('a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]')) return false;
    if (e.disabled || e.tabIndex < 0 || !e.checkVisibility({ visibilityProperty: true })) return false;
    if (e.type === 'radio') {
      if (groups.has(e.name)) return false;
      const chosen = document.querySelector(`input[type=radio][name="${e.name}"]:checked`);
      if (chosen && chosen !== e) return false;
      groups.add(e.name);
    }
    return true;
  }).map((e) => e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + ' ' + all.indexOf(e));
})()
