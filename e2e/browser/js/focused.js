(() => {
  const e = document.activeElement;
  if (!e || e === document.body || e === document.documentElement) return { name: '', visible: false };
  const s = getComputedStyle(e);
  const r = e.getBoundingClientRect();
  const ring = (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== 'none';
  return {
    name: e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + ' ' + [...document.querySelectorAll('*')].indexOf(e),
    visible: ring && r.bottom > 0 && r.top < innerHeight && r.width > 0 && r.height > 0,
  };
})()
