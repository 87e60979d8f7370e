-- How many instances one student may have running at once on all hosts together. Slurm's own limits of a
-- user need its accounting database, and to it all instances are of one user; their names are
-- LAB_user_STUDENT. 0 is no limit. The controller reads this again when it has changed; setup.sh writes it
-- only where it is missing. Slurm tells it of other jobs as they were at most a second ago, so of two that are
-- begun at once one may be too many.
local MOST_OF_A_STUDENT = 0

-- The lowest byte of a job's state; flags are above it, such as that its host is still getting ready.
local RUNNING, STATES = 1, 256

local function student_of(name)
    return name and string.match(name, "^[a-z0-9-]+_user_(.+)$")
end

function slurm_job_submit(job, partitions, uid)
    local student = student_of(job.name)
    if MOST_OF_A_STUDENT > 0 and student then
        local count = 0
        for _, other in pairs(slurm.jobs) do
            if student_of(other.name) == student and other.job_state % STATES == RUNNING then
                count = count + 1
            end
        end
        if count >= MOST_OF_A_STUDENT then
            slurm.log_user("%s has %d instances running, which is the most that a student may have", student, count)
            return slurm.ESLURM_ACCOUNTING_POLICY or slurm.ERROR
        end
    end
    return slurm.SUCCESS
end

function slurm_job_modify()
    return slurm.SUCCESS
end

return slurm.SUCCESS
