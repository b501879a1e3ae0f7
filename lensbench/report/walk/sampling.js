"use strict";
// From logits to a token, over the whole vocabulary and in double precision.

// Ids, the likeliest first; of equal logits the smaller id.
function ordered(logits) {
  return Uint32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
}

// The softmax of logits / temperature, in that order.
function softmax(logits, order, temperature) {
  const largest = logits[order[0]], probs = Float64Array.from(order, (id) => Math.exp((logits[id] - largest) / temperature));
  let sum = 0;
  for (let i = probs.length - 1; i >= 0; i--) sum += probs[i];  // small ones first: nothing is lost
  return probs.map((p) => p / sum);
}

// How many of the likeliest tokens top-p keeps: each before which less than p has been gathered.
function nucleus(probs, p) {
  if (p >= 1) return probs.length;
  let kept = 0, gathered = 0;
  while (kept < probs.length && (kept === 0 || gathered < p)) gathered += probs[kept++];
  return kept;
}

// A number in [0, 1) that a seed gives: mulberry32, 32 bits.
function uniform(seed) {
  let t = (seed + 0x6d2b79f5) | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

// What a temperature and a top-p make of the logits.
function distribution(logits, order, temperature, p) {
  const probs = softmax(logits, order, temperature), kept = nucleus(probs, p);
  let mass = 0;
  for (let i = kept - 1; i >= 0; i--) mass += probs[i];
  return { probs, kept, mass };
}

// The place in the order on which u falls, and where its stretch of the line begins and ends.
function drawn({ probs, kept, mass }, u) {
  let end = 0;
  for (let place = 0; place < kept; place++) {
    const start = end;
    end += probs[place] / mass;
    if (end > u || place === kept - 1) return { place, start, end };
  }
}

function entropyBits(probs, kept, mass) {
  let sum = 0;
  for (let i = kept - 1; i >= 0; i--) if (probs[i] > 0) sum -= (probs[i] / mass) * Math.log2(probs[i] / mass);
  return sum;
}
