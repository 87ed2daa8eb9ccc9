// Fine-tuning: a file goes up, a job runs, its loss is drawn as it falls, and the model is tried beside its base.
const ENDED = ['succeeded', 'failed', 'cancelled'];
let jobs = [], shown = null, course = new Map(), told = [], tuning = false, asking = null;

const svg = (tag, attributes, ...children) => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
};
function complain(message) { $('tune-error').textContent = message; $('tune-error').hidden = !message; }

async function postJson(path, body) {
  const response = await fetch(path, { method: 'POST', headers: headers(), body: JSON.stringify(body ?? {}) });
  if (!response.ok) throw await problem(response);
  return response.json();
}
// A request of the older kind: it alone tells how much of the file is up.
function upload(file) {
  return new Promise((resolve, reject) => {
    const form = new FormData(), request = new XMLHttpRequest(), bar = $('tune-upload');
    form.append('purpose', 'fine-tune');
    form.append('file', file);
    request.open('POST', '/v1/files');
    if (key) request.setRequestHeader('Authorization', 'Bearer ' + key);
    request.upload.addEventListener('progress', (e) => { if (e.lengthComputable) bar.value = e.loaded / e.total; });
    request.addEventListener('load', async () => {
      const response = new Response(request.responseText, { status: request.status });
      if (response.ok) resolve(await response.json()); else reject(await problem(response));
    });
    request.addEventListener('error', () => reject(new Error('the upload was cut off')));
    bar.value = 0;
    bar.hidden = false;
    request.send(form);
  });
}
async function startJob() {
  complain('');
  const number = (id) => ($(id).value === '' ? undefined : Number($(id).value));
  $('tune-start').disabled = true;
  try {
    const file = await upload($('tune-file').files[0]);
    const job = await postJson('/v1/fine_tuning/jobs', { model, training_file: file.id, suffix: $('tune-suffix').value.trim() || undefined,
      hyperparameters: { n_epochs: number('tune-epochs'), batch_size: number('tune-batch') },
      x_lora: { rank: number('tune-rank'), lr: number('tune-lr') } });
    await showJob(job.id);
  } catch (error) { complain(error.message); }
  $('tune-upload').hidden = true;
  $('tune-start').disabled = false;
}

// The jobs, the newest first.
const jobLabel = (job) => job.user_provided_suffix ?? job.id.slice(-8);
function drawJobs() {
  $('tune-jobs').replaceChildren(...jobs.map((job) => make('li', job.id === shown ? { 'aria-current': 'true' } : {},
    make('button', { type: 'button', onclick: () => showJob(job.id) }, `${jobLabel(job)} — ${job.status}`))));
  $('tune-none').hidden = jobs.length > 0;
}
async function showJob(id) {
  if (shown !== id) { course = new Map(); told = []; clearAnswers(); }
  shown = id;
  await refresh();
}
async function refresh() {
  try {
    jobs = (await getJson('/v1/fine_tuning/jobs?limit=100')).data;
    $('tune-form').hidden = false;
    shown ??= jobs[0]?.id ?? null;
    const job = jobs.find((j) => j.id === shown);
    drawJobs();
    $('tune-job').hidden = !job;
    if (!job) return;
    await readEvents(job);
    if (job.id === shown) drawJob(job);
  } catch (error) { complain(error.message); if (!jobs.length) $('tune-form').hidden = true; }
}
// Events that are not known yet: from the newest back to one that is.
async function readEvents(job) {
  const fresh = [], known = told[0]?.id;
  for (let after = '', more = true; more;) {
    const page = await getJson(`/v1/fine_tuning/jobs/${encodeURIComponent(job.id)}/events?limit=1000${after && '&after=' + encodeURIComponent(after)}`);
    const old = page.data.findIndex((event) => event.id === known);
    fresh.push(...(old < 0 ? page.data : page.data.slice(0, old)));
    more = old < 0 && page.has_more;
    after = page.last_id;
  }
  if (job.id !== shown) return;
  told = [...fresh, ...told];
  for (const event of fresh) if (event.type === 'metrics') course.set(event.data.step, event.data);
}
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
function drawJob(job) {
  const extra = job.x_lora, at = extra.steps_total ? `step ${extra.steps_done} of ${extra.steps_total}` : '';
  $('tune-name').textContent = job.fine_tuned_model ?? jobLabel(job);
  const left = job.estimated_finish ? `, done at about ${clock(job.estimated_finish)}` : '';
  $('tune-status').textContent = `${job.status.replace('_', ' ')}${at && ', ' + at}${left}`;
  $('tune-progress').value = extra.steps_total ? extra.steps_done / extra.steps_total : 0;
  $('tune-pause').hidden = !['running', 'queued', 'validating_files'].includes(job.status);
  $('tune-resume').hidden = job.status !== 'paused';
  $('tune-cancel').hidden = ENDED.includes(job.status);
  $('tune-failure').hidden = !job.error;
  $('tune-failure').textContent = job.error?.message ?? '';
  $('tune-events').replaceChildren(...told.slice(0, 6).map((event) => make('li', {}, `${clock(event.created_at)} ${event.message}`)));
  drawCurve();
  $('tune-try').hidden = !job.fine_tuned_model;
  $('tune-base').textContent = job.model;
  $('tune-tuned').textContent = job.fine_tuned_model ?? '';
}
async function change(verb) {
  const buttons = [...$('tune-job').querySelectorAll('.row button')];
  for (const button of buttons) button.disabled = true;
  try {
    complain('');
    await postJson(`/v1/fine_tuning/jobs/${encodeURIComponent(shown)}/${verb}`);
  } catch (error) { complain(error.message); }
  for (const button of buttons) button.disabled = false;
  await refresh();
}

// The losses over the steps.
const HIGH = 260, LEFT = 46, BOTTOM = 24, TOP = 8;
function drawCurve() {
  const rows = [...course.values()].sort((a, b) => a.step - b.step), picture = $('tune-curve');
  const points = (name) => {
    const all = rows.filter((row) => Number.isFinite(row[name])), stride = Math.ceil(all.length / 1000);
    return all.filter((_, i) => (all.length - 1 - i) % stride === 0).map((row) => [row.step, row[name]]);
  };
  const train = points('train_loss'), valid = points('valid_loss'), all = [...train, ...valid].map(([, loss]) => loss);
  picture.replaceChildren();
  const wide = picture.clientWidth;
  if (!train.length) return;
  const last = Math.max(train.at(-1)[0], jobs.find((j) => j.id === shown)?.x_lora.steps_total ?? 0, 2);
  let low = Infinity, high = -Infinity;
  for (const loss of all) { low = Math.min(low, loss); high = Math.max(high, loss); }
  if (high - low < 1e-6) { low -= 0.5; high += 0.5; }
  const x = (step) => LEFT + (step - 1) / (last - 1) * (wide - LEFT - 8), y = (loss) => TOP + (high - loss) / (high - low) * (HIGH - TOP - BOTTOM);
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const loss = low + part * (high - low);
    picture.append(svg('line', { x1: LEFT, x2: wide - 8, y1: y(loss), y2: y(loss), class: 'grid' }),
      svg('text', { x: LEFT - 6, y: y(loss) + 4, 'text-anchor': 'end' }, loss.toPrecision(3)));
  }
  for (const step of new Set([1, Math.round((1 + last) / 2), last]))
    picture.append(svg('text', { x: x(step), y: HIGH - 6, 'text-anchor': step === 1 ? 'start' : step === last ? 'end' : 'middle' }, `step ${step}`));
  for (const [name, line] of [['train', train], ['valid', valid]]) {
    if (line.length > 1) picture.append(svg('polyline', { class: name, points: line.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(' ') }));
    const [step, loss] = line.at(-1) ?? [];
    if (step) picture.append(svg('circle', { class: name, cx: x(step), cy: y(loss), r: 3.5 }));
  }
  picture.setAttribute('aria-label', `Training loss from ${train[0][1].toPrecision(3)} to ${train.at(-1)[1].toPrecision(3)} in ${train.at(-1)[0]} steps`);
}

// One question to both models.
function clearAnswers() { asking?.abort(); for (const side of ['base', 'tuned']) $(`tune-${side}-answer`).replaceChildren(); }
async function answerOf(name, side, text, signal) {
  const place = $(`tune-${side}-answer`), message = { content: '' };
  try {
    const response = await fetch('/v1/chat/completions', { method: 'POST', headers: headers(), signal,
      body: JSON.stringify({ model: name, messages: [{ role: 'user', content: text }], temperature: 0, max_tokens: 400, stream: true }) });
    if (!response.ok) throw await problem(response);
    for await (const event of events(response)) {
      take(event, message, {});
      place.replaceChildren(...markdown(message.content));
    }
  } catch (error) { if (error.name !== 'AbortError') place.append(make('p', { class: 'error', role: 'alert' }, error.message)); }
}
async function askBoth() {
  const text = $('tune-prompt').value;
  if (!text.trim()) return;
  clearAnswers();
  const control = asking = new AbortController();
  $('tune-try').setAttribute('aria-busy', 'true');
  await Promise.all([answerOf($('tune-base').textContent, 'base', text, control.signal), answerOf($('tune-tuned').textContent, 'tuned', text, control.signal)]);
  if (asking === control) $('tune-try').setAttribute('aria-busy', 'false');
}

// While it is open, what changes is asked for once a second.
async function showTune() {
  const open = $('tune').hidden;
  $('tune').hidden = !open;
  $('log').hidden = $('ask').hidden = open;
  $('show-tune').setAttribute('aria-pressed', String(open));
  if (!open) { $('input').focus(); return; }
  $('tune-file').focus();
  await refresh();
  if (tuning) return;
  tuning = true;
  while (!$('tune').hidden) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    if (!document.hidden && jobs.some((job) => !ENDED.includes(job.status))) await refresh();
  }
  tuning = false;
}
$('tune-form').addEventListener('submit', (e) => { e.preventDefault(); startJob(); });
$('tune-try').addEventListener('submit', (e) => { e.preventDefault(); askBoth(); });
$('tune-prompt').addEventListener('keydown', (e) => { if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); askBoth(); } });
for (const verb of ['pause', 'resume', 'cancel']) $('tune-' + verb).addEventListener('click', () => change(verb));
$('show-tune').addEventListener('click', showTune);
