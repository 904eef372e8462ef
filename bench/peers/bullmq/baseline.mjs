// The design that this system replaces, written for comparison: one repeating BullMQ job per order, every 2 s. A job looks
// at the price in memory and closes its order when it has crossed, with the same settlement statements as ours, one
// order a transaction. What favours it: levels travel in the job (nothing is read while nothing crosses), P&L in floating
// point, no channel is published to, no monitoring state is kept.
//
// Environment: REDIS_URL, PGHOST, PGPORT, PGUSER, PGDATABASE, SQL_DIR, CONCURRENCY, SECONDS (steady state), LIMIT_S.
// Arguments: the price that crosses a part of the orders, the price that crosses all.
// Prints one JSON object.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Queue, Worker } from "bullmq";
import Redis from "ioredis";
import pg from "pg";

const EVERY_MS = 2000;
const COMMISSION_RATE = 0.0005;
const concurrency = Number(process.env.CONCURRENCY);
const [partPrice, allPrice] = process.argv.slice(2);

// Our statements have named parameters: numbered here, in the order of their first use.
function statement(name) {
  const names = [];
  const text = readFileSync(join(process.env.SQL_DIR, `${name}.sql`), "utf8").replace(/%\((\w+)\)s/g, (_, key) => {
    if (!names.includes(key)) names.push(key);
    return `$${names.indexOf(key) + 1}`;
  });
  return (values) => ({ name, text, values: names.map((key) => values[key]) });
}
const lock = statement("lock_for_settlement");
const write = statement("write_settlement");

const pool = new pg.Pool({ max: concurrency });
const redis = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const queue = new Queue("orders", { connection: redis });

const market = { price: "100.0000", receivedAt: new Date() };
let checks = 0;
let closed = 0;
let failure = null;

async function check(job) {
  checks += 1;
  const { id, upper, lower } = job.data;
  const price = Number(market.price);
  if (price < upper && price > lower) return;
  if (await close(id, market.price, market.receivedAt)) {
    closed += 1;
    await queue.removeJobScheduler(String(id));
  }
}

async function close(id, price, receivedAt) {
  const startedAt = new Date();
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query("SELECT pg_advisory_xact_lock_shared(7305)");
    await client.query("SELECT state FROM system_state WHERE id = 1");
    const { rows } = await client.query(lock({ ids: [id] }));
    if (rows.length) await client.query(write(settlement(rows[0], price, receivedAt, startedAt)));
    await client.query("COMMIT");
    return rows.length > 0;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

function settlement(deal, price, receivedAt, startedAt) {
  const amount = Number(deal.amount);
  const volume = amount * deal.multiplier;
  const move = (Number(price) - Number(deal.open_price)) * (deal.direction === "up" ? 1 : -1);
  const commission = volume * COMMISSION_RATE;
  const profit = Math.max((volume * move) / Number(deal.open_price) - commission, -amount).toFixed(8);
  const isUpper = Number(price) >= Number(deal.upper_trigger);
  return {
    ids: [deal.id],
    firings: [1],
    close_prices: [price],
    reasons: [isUpper === (deal.direction === "up") ? "take_profit" : "stop_loss"],
    detectors: ["tick"],
    profits: [profit],
    commissions: [commission.toFixed(8)],
    payouts: [(amount + Number(profit)).toFixed(8)],
    volumes: [volume.toFixed(8)],
    trade_ids: [null],
    tick_ats: [receivedAt],
    received_ats: [receivedAt],
    fired_ats: [startedAt],
    gaps_ms: [null],
    started_at: startedAt,
    closed_at: new Date(),
  };
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Crosses: the new price, and how many orders are closed then; ends after LIMIT_S whatever is still open.
async function cross(price, until) {
  market.price = price;
  market.receivedAt = new Date();
  const deadline = Date.now() + Number(process.env.LIMIT_S) * 1000;
  while (closed < until && Date.now() < deadline && !failure) await sleep(20);
  return { closed, until };
}

async function main() {
  const { rows: orders } = await pool.query(
    "SELECT id, upper_trigger, lower_trigger FROM deals WHERE status = 'open' ORDER BY id",
  );
  const began = Date.now();
  for (let start = 0; start < orders.length; start += 500) {
    await Promise.all(
      orders.slice(start, start + 500).map((order) =>
        queue.upsertJobScheduler(
          String(order.id),
          { every: EVERY_MS },
          {
            name: "check",
            data: { id: order.id, upper: Number(order.upper_trigger), lower: Number(order.lower_trigger) },
            opts: { removeOnComplete: true, removeOnFail: true },
          },
        ),
      ),
    );
  }
  const schedulingMs = Date.now() - began;
  const worker = new Worker("orders", check, {
    connection: new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null }),
    concurrency,
  });
  worker.on("failed", (_job, error) => (failure = failure || error));
  await sleep(2 * EVERY_MS);
  const before = { checks, cpu: process.cpuUsage(), at: Date.now() };
  await sleep(Number(process.env.SECONDS) * 1000);
  const seconds = (Date.now() - before.at) / 1000;
  const cpu = process.cpuUsage(before.cpu);
  const steady = { checksPerS: (checks - before.checks) / seconds, cpuS: (cpu.user + cpu.system) / 1e6, seconds };
  const part = orders.filter((order) => Number(order.upper_trigger) <= Number(partPrice)).length;
  const some = await cross(partPrice, part);
  const all = await cross(allPrice, orders.length);
  if (failure) throw failure;
  console.log(JSON.stringify({ orders: orders.length, schedulingMs, steady, some, all }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
