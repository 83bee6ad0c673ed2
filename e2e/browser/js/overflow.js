(() => {
  const width = document.documentElement.clientWidth;
  const pixels = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - width;
  const who = pixels <= 0 ? [] : [...document.body.querySelectorAll('*')]
    .filter((e) => e.getBoundingClientRect().right > width + 0.5)
    .map((e) => e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + (e.className ? '.' + e.className : '')).slice(0, 5);
  return { pixels: Math.max(0, pixels), who };
})()
