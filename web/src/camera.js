// Where the map stands: screen = place * scale + offset, in CSS pixels; up is up.

export function createCamera() {
  const camera = { x: 0, y: 0, scale: 1, width: 1, height: 1, whole: 1 };

  camera.resize = (width, height) => {
    [camera.width, camera.height] = [Math.max(1, width), Math.max(1, height)];
  };

  // Shows a box of the map, with a margin.
  camera.show = (left, bottom, right, top, margin = 36) => {
    [camera.x, camera.y] = [(left + right) / 2, (bottom + top) / 2];
    const [wide, high] = [Math.max(right - left, 1e-3), Math.max(top - bottom, 1e-3)];
    const room = (side) => Math.max(side - 2 * margin, side / 2);
    camera.scale = Math.min(room(camera.width) / wide, room(camera.height) / high);
  };

  camera.toScreen = (x, y) => [
    (x - camera.x) * camera.scale + camera.width / 2,
    camera.height / 2 - (y - camera.y) * camera.scale,
  ];

  camera.toMap = (px, py) => [
    (px - camera.width / 2) / camera.scale + camera.x,
    (camera.height / 2 - py) / camera.scale + camera.y,
  ];

  camera.pan = (dx, dy) => {
    camera.x -= dx / camera.scale;
    camera.y += dy / camera.scale;
    camera.x = Math.min(Math.max(camera.x, -1.5), 1.5);
    camera.y = Math.min(Math.max(camera.y, -1.5), 1.5);
  };

  camera.allowed = (scale) => Math.min(Math.max(scale, camera.whole / 2), camera.whole * 2000);

  // What lies under (px, py) stays there.
  camera.zoom = (factor, px = camera.width / 2, py = camera.height / 2) => {
    const [x, y] = camera.toMap(px, py);
    camera.scale = camera.allowed(camera.scale * factor);
    const [nx, ny] = camera.toMap(px, py);
    camera.x += x - nx;
    camera.y += y - ny;
  };

  return camera;
}
