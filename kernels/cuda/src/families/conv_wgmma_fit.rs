//! `conv.wgmma`: what a tile takes of a multiprocessor, and whether it fits.

use super::*;

impl Tile {
    pub(super) const fn threads(&self) -> u32 {
        // One thread asks for everything that maps bring; only whole warpgroups can give registers away.
        128 * self.groups + if self.maps == 1 && self.groups == 1 { 32 } else { 128 }
    }

    /// Registers that each thread may have for so many blocks to be resident: each quarter of a multiprocessor has a quarter of
    /// them, for every fourth warp.
    pub(super) const fn registers_beside(&self, blocks: u32) -> u32 {
        let most = 512 / (self.threads() / 32 * blocks).div_ceil(4) / 8 * 8;
        if most > 255 { 255 } else { most }
    }

    /// Warpgroups that multiply one tile together.
    pub(super) const fn team(&self) -> u32 {
        if self.pong == 1 { self.groups / 2 } else { self.groups }
    }

    /// Blocks of a cluster that take tiles of their own.
    pub(super) const fn peers(&self) -> u32 {
        self.share * self.spread
    }

    /// Pixels that a block asks for at a time by a map.
    pub(super) const fn rows_of_map(&self) -> u32 {
        if self.multicast == 1 { self.m / self.spread } else { self.m }
    }

    /// Bytes of a team's tile of results in boxes of 64 columns.
    pub(super) const fn boxes(&self) -> u32 {
        self.m * self.n.div_ceil(64) * 128
    }

    /// Dynamic shared memory: the ring, all sums over it where they are shared; results; barriers; windows.
    pub(super) fn shared(&self, shape: &Shape<'_>, wide: bool) -> u32 {
        let ring = self.stages * self.deep * (self.m + self.n) * 128;
        let windows = match (shape.geometry.is_pointwise() || self.maps == 1, wide) {
            (true, _) => 0,
            (false, false) => 8,
            (false, true) => 16,
        };
        let sums = match (self.cluster, sum_bytes(self.m, self.n, self.cluster, 1)) {
            (1, _) => ring + self.through * (self.boxes() * self.groups / self.team() + 32 * self.groups),
            (_, (own, others)) => ring.max(own) + others,
        };
        sums + 16 * self.stages + 16 + self.m * windows
    }

    /// Accumulator registers of a multiplying thread.
    pub(super) const fn accumulators(&self) -> u32 {
        self.m * self.n / (128 * self.team())
    }

    /// Blocks that registers must leave room for: the ones of this kernel, and one of the next, to which programmatic launches
    /// give a start while this one ends, wherever that costs no accumulators.
    pub(super) fn bound(&self, shape: &Shape<'_>) -> u32 {
        // With three, moments would be waited for before the main loop, and one slab's operands asked for at a time.
        let most = if shape.epilogue.rows.is_some() { 2 } else { 3 };
        let room = |b: &u32| self.accumulators() + 80 <= self.registers_beside(*b);
        (self.blocks + 1..=most).rev().find(room).unwrap_or(self.blocks)
    }

    /// Registers of a thread at the start, then of a filling and of a multiplying one where they differ.
    pub(super) fn registers(&self, shape: &Shape<'_>) -> (u32, Option<(u32, u32)>) {
        let start = self.registers_beside(self.bound(shape));
        let enough = self.accumulators() + self.least(shape).max(72) <= start;
        if self.groups == 1 && self.maps == 1 || enough {
            return (start, None);
        }
        // Addresses, and windows of a sixteenth of the rows, two registers each. What is left of the first must do for 192 x 192, the
        // least that tensor cores multiply no faster than L2 brings it: 43 bytes a cycle.
        let filling = match (self.maps, shape.is_pointwise()) {
            (1, true) => 32,
            (1, false) => 56,
            (_, true) => 48,
            (_, false) => 40 + self.m / 8,
        };
        let multiplying =
            ((start * (self.groups + 1)).saturating_sub(filling) / self.groups / 8 * 8).min(240);
        (start, Some((filling, multiplying)))
    }

    /// Registers of a multiplying thread beside its accumulators.
    pub(super) fn room(&self, shape: &Shape<'_>) -> u32 {
        let (start, split) = self.registers(shape);
        split.map_or(start, |(_, multiplying)| multiplying).saturating_sub(self.accumulators())
    }

    /// Registers for halves that change lanes to leave aligned, and for sums of the result's elements and of their squares, of several
    /// rows at a time.
    fn between_lanes(&self, shape: &Shape<'_>) -> u32 {
        let runs = if shape.in_runs() { 40 } else { 0 };
        runs + if shape.epilogue.moments { self.m / 64 / self.team() * 40 } else { 0 }
    }

    /// Registers that a multiplying thread needs beside its accumulators: no sample's kernel spills with so many.
    fn least(&self, shape: &Shape<'_>) -> u32 {
        32 + self.between_lanes(shape) + self.known(shape, false) + self.batch(shape).1
    }

    /// What the epilogue finishes at a time: slabs of a warp, or items of a thread of the cluster's; and registers of each.
    pub(super) fn batch(&self, shape: &Shape<'_>) -> (u32, u32) {
        let width = shape.width();
        match self.cluster {
            1 => {
                // Eight columns of each of two rows, `width` to a read; one for both where the columns say all. What comes through
                // shared memory needs none.
                let carried = shape.carried.as_ref().filter(|_| self.through > 0).map(|c| c.0);
                let reads = operands(shape.epilogue).filter(|read| Some(read.operand) != carried);
                let each = reads.map(|read| {
                    let rows = if read.by_column && width == 8 { 1 } else { 2 };
                    rows * (8 / width) * (width * read.dtype.size() as u32).div_ceil(4)
                });
                (self.m / 64 / self.team() * (self.n / 32), 2 + each.sum::<u32>())
            }
            parts => {
                let items = (self.m.div_ceil(parts) * self.n / width).div_ceil(128 * self.groups);
                (items, finish_registers(shape.epilogue, width))
            }
        }
    }

    /// Registers for what a thread knows of two rows of every 64; their moments, if these wait in registers.
    pub(super) fn known(&self, shape: &Shape<'_>, wait: bool) -> u32 {
        let Some(_) = shape.epilogue.rows.filter(|_| self.cluster == 1) else { return 0 };
        2 * self.m / 64 / self.team() * if wait { row_registers(shape.epilogue) } else { 2 }
    }

    /// Whether what is known of rows must be there before a tile is multiplied. Only where there is no room for it: it comes behind
    /// all that the ring has asked for, a microsecond after the first tile of k.
    pub(super) fn rows_first(&self, shape: &Shape<'_>) -> bool {
        self.room(shape) < 56 + self.known(shape, true) + self.batch(shape).1
    }

    /// How many of them are asked for at a time.
    pub(super) fn ahead(&self, shape: &Shape<'_>) -> u32 {
        let (count, each) = self.batch(shape);
        // The mainloop and the program need registers, too; a warp has no use for more than four slabs.
        let taken = 48 + (2.0 * cost::instructions(&shape.epilogue.program)).min(40.0) as u32;
        let rows = if shape.epilogue.rows.is_some() { 8 } else { 0 };
        let taken = taken + rows + self.between_lanes(shape) + self.known(shape, !self.rows_first(shape));
        let (taken, most) = if self.cluster == 1 { (taken, count.min(4)) } else { (taken + 20, count) };
        (self.room(shape).saturating_sub(taken) / each).clamp(1, most)
    }

    /// Why the kernel cannot be made so, if it cannot.
    pub(super) fn check(&self, shape: &Shape<'_>, wide: bool, target: &Target) -> Result<(), String> {
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        if self.maps > 1
            || self.early > 1
            || self.pong > 1
            || self.pong == 1 && (!self.groups.is_multiple_of(2) || self.cluster > 1)
        {
            return fail("maps or not, early or not; two teams of warpgroups that take turns, at all of k");
        }
        if !matches!(self.groups, 1..=4) || self.m == 0 || !self.m.is_multiple_of(64 * self.team()) {
            return fail("1 to 4 warpgroups of whole 64 rows");
        }
        if self.n == 0 || !self.n.is_multiple_of(32) || self.n > 256 || self.m > 256 {
            return fail("tiles of at most 256 pixels and 256 filters, these in 32s");
        }
        if !(1..=4).contains(&self.deep)
            || self.deep > 1 && !shape.tiles.is_multiple_of(self.deep * self.cluster)
        {
            return fail(&format!(
                "stages of 1 to 4 tiles of k, whole ones of the {} there are",
                shape.tiles
            ));
        }
        if !(2..=8).contains(&self.stages) || !(1..=4).contains(&self.blocks) {
            return fail("2 to 8 stages, 1 to 4 blocks");
        }
        if self.cluster == 0 || self.cluster > shape.tiles.min(8) {
            return fail(&format!("clusters of at most 8 blocks share {} tiles", shape.tiles));
        }
        if !matches!((self.share, self.spread), (1 | 2 | 4, 1) | (1 | 2, 2))
            || self.peers() * self.cluster > 8
        {
            return fail("1, 2 or 4 blocks share weights, 1 or 2 pixels, in clusters of at most 8");
        }
        if self.multicast > 1 || self.multicast == 1 && self.peers() == 1 {
            return fail("multicast or not, and only among several blocks");
        }
        if self.maps == 1 && !shape.mapped(self.rows_of_map()) {
            return fail("no tensor map for these pixels");
        }
        if self.maps == 0 && shape.added.is_some() {
            return fail("only maps bring the pixels of what is added");
        }
        if self.spread > 1
            && (self.maps < self.multicast || !shape.column_tiles(self).is_multiple_of(self.spread as usize))
        {
            return fail("only maps bring pixels to several blocks, which take whole rows of tiles");
        }
        if self.cluster > 1 && !shape.geometry.filters.is_multiple_of(4) {
            return fail("clusters take filters in fours");
        }
        if self.cluster > 1 && self.m > 192 {
            return fail("clusters take tiles of at most 192 pixels");
        }
        if self.through > 0 {
            let whole = self.n.is_multiple_of(64) || shape.column_tiles(self) == 1;
            if self.through > 2 || self.cluster > 1 || self.through > 1 && self.pong == 1 {
                return fail("one tile of results of each team that takes turns, one or two of others");
            }
            if !whole || !shape.geometry.filters.is_multiple_of(8) || !shape.epilogue.out().is_half() {
                return fail("results come through shared memory as halves, in boxes of 64 columns");
            }
            // What is placed out of a map's reach goes from registers after all.
            Tile { through: 0, ..*self }.check(shape, wide, target)?;
        }
        let (start, _) = self.registers(shape);
        // ptxas wants the operands of one instruction, and some, within what the kernel starts with.
        if self.team() == 1 && self.accumulators() > 192 {
            return fail("more accumulators than one warpgroup has registers for");
        }
        // What it knows of six rows does not wait beside 144 accumulators.
        if self.m / self.team() > 128 && shape.epilogue.rows.is_some() {
            return fail("rows are known by warpgroups of at most 128 rows");
        }
        if self.n / 2 + 28 > start || self.room(shape) < self.least(shape) {
            return fail(&format!("{} accumulators beside {}", self.accumulators(), self.room(shape)));
        }
        let shared = self.shared(shape, wide);
        if shared > target.shared_per_block
            || (shared + 1024) * self.blocks > target.shared_per_multiprocessor
        {
            return fail(&format!("{shared} bytes of shared memory of {}", target.shared_per_block));
        }
        Ok(())
    }
}
